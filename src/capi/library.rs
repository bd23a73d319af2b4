//! A shared object with services, tested by the libduramen that it is linked with: the one that serves it in use.

use super::entry::duramen_errmsg;
use super::status::{DURAMEN_OK, duramen_errname};
use super::tested::{DURAMEN_TEST_REPORT_BYTES, duramen_service_test, duramen_tested_service};
use std::ffi::{CStr, CString, c_char, c_void};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

/// Why a shared object was not tested, or what its services do wrong, in one line.
#[derive(Debug, thiserror::Error)]
pub enum LibraryError {
    /// It could not be loaded.
    #[error("{path} cannot be loaded: {why}")]
    Load {
        /// As given.
        path: String,
        /// The system's words, and what helps.
        why: String,
    },
    /// It has nothing to be tested with.
    #[error("{path} {lacks}")]
    Lacks {
        /// As given.
        path: String,
        /// What it does not have.
        lacks: String,
    },
    /// A service of it did not pass.
    #[error("{code}: {message}")]
    Failed {
        /// `DURAMEN_E_CONTRACT`, or why it could not be tested.
        code: String,
        /// What `duramen_errmsg` says.
        message: String,
    },
}

type Services = unsafe extern "C" fn(usize) -> *const duramen_tested_service;
type Test =
    unsafe extern "C" fn(*const duramen_tested_service, u64, u64, *mut c_char, usize, *mut usize) -> i32;
type Errmsg = unsafe extern "C" fn(*const c_void, *mut c_char, usize) -> usize;
type Text = unsafe extern "C" fn(i32) -> *const c_char;
type Version = unsafe extern "C" fn() -> u32;

// The types of what is looked up by name.
const _: Test = duramen_service_test;
const _: Errmsg = duramen_errmsg;
const _: unsafe extern "C" fn() -> u32 = super::conf::duramen_version_number;
const _: unsafe extern "C" fn(i32) -> *const c_char = duramen_errname;

/// More services no shared object has.
const SERVICES_MAX: usize = 1000;
/// Longer messages are cut.
const MESSAGE_BYTES: usize = 1024;

/// Loads a shared object for good and tests all services that its `duramen_test_services` gives with `duramen_service_test` of the libduramen that it
/// is linked with. Runs foreign code in this process, which may do anything to it: best in one that has nothing to lose.
///
/// Returns the reports, which are equal in all processes.
pub fn test_library(path: &Path, operations: u64, seed: u64) -> Result<String, LibraryError> {
    let library = Library::load(path)?;
    let services = library.symbol(c"duramen_test_services").ok_or_else(|| {
        library.lacks("has no function duramen_test_services (see duramen.h at duramen_test_services_fn), or does not export it")
    })?;
    let of_duramen = |name: &'static CStr| {
        library.symbol(name).ok_or_else(|| {
            let name = name.to_string_lossy();
            library.lacks(format!(
                "is not linked with a libduramen that has {name}: link it with -lduramen of this version"
            ))
        })
    };
    let version = of_duramen(c"duramen_version_number")?;
    // SAFETY: libduramen exports these by this name with this type, as the checks above hold it to; the version is asked first.
    let (version, test, errmsg, errname) = unsafe {
        (
            std::mem::transmute::<*mut c_void, Version>(version)(),
            std::mem::transmute::<*mut c_void, Test>(of_duramen(c"duramen_service_test")?),
            std::mem::transmute::<*mut c_void, Errmsg>(of_duramen(c"duramen_errmsg")?),
            std::mem::transmute::<*mut c_void, Text>(of_duramen(c"duramen_errname")?),
        )
    };
    let ours = super::conf::DURAMEN_VERSION;
    if version / 1000 != ours / 1000 {
        return Err(library.lacks(format!("is linked with libduramen {version}, and this is {ours}")));
    }
    // SAFETY: the contract of the symbol, which is the shared object's.
    let services = unsafe { std::mem::transmute::<*mut c_void, Services>(services) };
    let mut reports = String::new();
    for index in 0..SERVICES_MAX {
        // SAFETY: as above.
        let tested = unsafe { services(index) };
        if tested.is_null() {
            break;
        }
        let (mut report, mut message) = ([0u8; DURAMEN_TEST_REPORT_BYTES], [0u8; MESSAGE_BYTES]);
        let text = |bytes: &[u8]| {
            CStr::from_bytes_until_nul(bytes).unwrap_or_default().to_string_lossy().into_owned()
        };
        // SAFETY: what it gave, and buffers with their lengths.
        let code = unsafe {
            test(tested, operations, seed, report.as_mut_ptr().cast(), report.len(), std::ptr::null_mut())
        };
        if code != DURAMEN_OK {
            // SAFETY: a buffer with its length; a static text.
            let code = unsafe {
                errmsg(std::ptr::null(), message.as_mut_ptr().cast(), message.len());
                CStr::from_ptr(errname(code))
            };
            return Err(LibraryError::Failed {
                code: code.to_string_lossy().into_owned(),
                message: text(&message),
            });
        }
        reports += &text(&report);
    }
    if reports.is_empty() {
        return Err(library.lacks("has no services: its duramen_test_services(0) is NULL"));
    }
    Ok(reports)
}

/// A shared object, never closed: destructors of threads may be in it.
struct Library {
    handle: *mut c_void,
    path: String,
}

impl Library {
    fn load(path: &Path) -> Result<Self, LibraryError> {
        let shown = path.display().to_string();
        let failed = |why: String| LibraryError::Load { path: shown.clone(), why };
        // A name without a slash would be looked for elsewhere.
        let whole = path.canonicalize().map_err(|why| failed(why.to_string()))?;
        let whole = CString::new(whole.as_os_str().as_bytes()).expect("a path that exists");
        // SAFETY: a string; what the object's constructors do is its own.
        let handle = unsafe { libc::dlopen(whole.as_ptr(), libc::RTLD_NOW | libc::RTLD_LOCAL) };
        if handle.is_null() {
            let why = last_error();
            let hint = match why.contains("duramen_") || why.contains("libduramen") {
                true => {
                    " (link it with -lduramen, where the loader finds that: -Wl,-rpath,FOLDER or LD_LIBRARY_PATH)"
                }
                false => "",
            };
            return Err(failed(format!("{why}{hint}")));
        }
        Ok(Self { handle, path: shown })
    }

    /// Of it, or of what it is linked with.
    fn symbol(&self, name: &CStr) -> Option<*mut c_void> {
        // SAFETY: an open handle and a string.
        let symbol = unsafe { libc::dlsym(self.handle, name.as_ptr()) };
        (!symbol.is_null()).then_some(symbol)
    }

    fn lacks(&self, what: impl Into<String>) -> LibraryError {
        LibraryError::Lacks { path: self.path.clone(), lacks: what.into() }
    }
}

/// Why the last dlopen of this thread failed.
fn last_error() -> String {
    // SAFETY: NULL, or a string that lives until the next such call of this thread.
    let why = unsafe { libc::dlerror().as_ref().map(|why| CStr::from_ptr(why)) };
    why.map_or_else(|| "no reason given".into(), |why| why.to_string_lossy().into_owned())
}
