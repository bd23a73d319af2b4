use std::path::Path;

use super::machine::*;

#[test]
fn the_mount_of_a_folder_is_the_last_of_the_longest_that_holds_it() {
    let info = "22 1 254:0 / / rw - ext4 /dev/vda rw\n\
                30 22 0:25 / /tmp rw shared:1 - tmpfs tmpfs rw\n\
                31 22 0:26 / /tmpfiles rw - xfs /dev/vdb rw\n\
                32 22 0:27 / /a\\040b rw - btrfs /dev/vdc rw\n";
    let file_system = |dir| mount_of(info, Path::new(dir)).unwrap().file_system;
    assert_eq!(file_system("/home/x"), "ext4");
    assert_eq!(file_system("/tmp/x/y"), "tmpfs");
    assert_eq!(file_system("/tmpfiles"), "xfs");
    assert_eq!(file_system("/a b/c"), "btrfs");
    assert_eq!(mount_of("", Path::new("/")), None);
    assert!(mount_of(info, Path::new("/tmp")).unwrap().in_memory());
}

#[test]
fn cpu_time_is_read_behind_a_name_with_spaces_and_parentheses() {
    assert_eq!(cpu_ticks("12 (a) b (c)) S 1 1 1 0 -1 4 5 6 7 8 30 12 0 0 20"), 42);
    assert_eq!(cpu_ticks(""), 0);
    assert!(resident_bytes(std::process::id()) > 0);
}
