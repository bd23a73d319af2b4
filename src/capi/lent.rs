//! What a callback is lent: pointers that are numbers, good on this thread until the callback returns.
//!
//! They are odd, so none of them is a handle. Each is used once: kept and used later, it is turned down.

use super::entry::{catching, note};
use super::status::*;
use std::cell::RefCell;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Something that callbacks are lent.
pub(super) trait Lend {
    /// The type that the header shows a pointer to.
    type Opaque;
    /// For messages: "a reply".
    const KIND: &str;
}

#[derive(Clone, Copy)]
struct Lent {
    token: usize,
    kind: &'static str,
    /// The object; NULL while a call uses it.
    at: *mut (),
}

thread_local! {
    /// Gone when the thread's last destructors run: nothing is lent then.
    static LENT: RefCell<Vec<Lent>> = const { RefCell::new(Vec::new()) };
}

/// Takes the object back.
struct Back(());

impl Drop for Back {
    fn drop(&mut self) {
        let _ = LENT.try_with(|all| all.borrow_mut().pop());
    }
}

/// Lends `object` to what `run` calls.
pub(super) fn lend<T: Lend, R>(object: &mut T, run: impl FnOnce(*mut T::Opaque) -> R) -> R {
    static NEXT: AtomicUsize = AtomicUsize::new(1);
    let token = NEXT.fetch_add(2, Ordering::Relaxed);
    let at = std::ptr::from_mut(object).cast();
    let _ = LENT.try_with(|all| all.borrow_mut().push(Lent { token, kind: T::KIND, at }));
    let _back = Back(());
    run(std::ptr::without_provenance_mut(token))
}

/// Runs the inside of an entry on something lent.
pub(super) fn with_lent<T: Lend>(
    token: *const T::Opaque,
    inside: impl FnOnce(&mut T) -> Answer,
) -> Result<i32, i32> {
    let token = token.addr();
    let found = LENT.try_with(|all| {
        let mut all = all.borrow_mut();
        let lent = all.iter_mut().rev().find(|lent| lent.token == token && lent.kind == T::KIND)?;
        let at = std::mem::replace(&mut lent.at, std::ptr::null_mut());
        (!at.is_null()).then_some(at.cast::<T>())
    });
    let answer = match found.ok().flatten() {
        None => Err(Failure::new(
            DURAMEN_E_HANDLE,
            format!("not {} that was lent to a callback which runs on this thread", T::KIND),
        )),
        Some(at) => {
            // SAFETY: `lend` borrows it until its entry is gone, `KIND` is its type, and the entry is NULL meanwhile.
            let answer = catching(|| inside(unsafe { &mut *at }));
            let _ = LENT.try_with(|all| {
                if let Some(lent) = all.borrow_mut().iter_mut().find(|lent| lent.token == token) {
                    lent.at = at.cast();
                }
            });
            answer
        }
    };
    answer.map_err(|Failure { code, message }| {
        note(token, &message);
        code
    })
}
