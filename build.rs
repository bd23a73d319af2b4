//! The shared library's name: what programs that are linked with it ask for at run time.
//!
//! `src/capi/abi.txt` says what that name promises; a test holds it to that.

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    let version = |part: &str| std::env::var(format!("CARGO_PKG_VERSION_{part}")).expect("cargo sets it");
    if std::env::var("CARGO_CFG_TARGET_OS").is_ok_and(|os| os == "linux") {
        // Before 1.0 a minor version may break what the one before promised.
        let (major, minor) = (version("MAJOR"), version("MINOR"));
        println!("cargo::rustc-cdylib-link-arg=-Wl,-soname,libduramen.so.{major}.{minor}");
        // Not unmapped by dlclose: destructors of threads that have called it, and the panic hook, are its code.
        println!("cargo::rustc-cdylib-link-arg=-Wl,-z,nodelete");
    }
}
