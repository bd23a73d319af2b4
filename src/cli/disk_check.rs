//! `duramen disk-check`: what synchronous writes cost on a disk.

use std::path::PathBuf;

use duramen::log::{DISK_CHECK_SIZES, disk_check};
use serde_json::json;

use super::machine::Mount;
use super::{CliError, emit};

/// Which disk, and how to print it.
#[derive(clap::Args, Debug, PartialEq)]
pub struct Args {
    /// A folder on the disk to measure
    pub dir: PathBuf,
    /// Print JSON instead of a table
    #[arg(long)]
    pub json: bool,
}

/// Measures and prints.
pub fn run(args: Args) -> Result<(), CliError> {
    let report = disk_check(&args.dir, DISK_CHECK_SIZES)?;
    let Mount { device, file_system } = Mount::of(&args.dir);
    if args.json {
        let speeds: Vec<_> = (report.speeds.iter())
            .map(|speed| {
                json!({
                    "bytes": speed.bytes,
                    "writes": speed.writes,
                    "us_p50": speed.write_ns_p50 as f64 / 1e3,
                    "us_p99": speed.write_ns_p99 as f64 / 1e3,
                    "bytes_per_second": speed.bytes_per_second,
                })
            })
            .collect();
        return emit(json!({
            "dir": args.dir.display().to_string(),
            "file_system": file_system,
            "device": device,
            "in_memory": report.memory_fs,
            "io_uring": report.uring.is_ok(),
            "io_uring_problem": report.uring.as_ref().err(),
            "sync_writes": speeds,
        }));
    }
    emit(format_args!("{}: {file_system} on {device}", args.dir.display()))?;
    if report.memory_fs {
        emit("IN MEMORY: nothing here survives a power loss, and the figures say nothing about a disk")?;
    }
    match &report.uring {
        Ok(()) => emit("io_uring: usable")?,
        Err(why) => {
            emit(format_args!("io_uring: not usable ({why}); writes go through pwritev2(RWF_DSYNC)"))?
        }
    }
    emit("synchronous direct writes into a zero-filled file, one at a time:")?;
    emit(format_args!("{:>9} {:>9} {:>11} {:>11} {:>9}", "size", "writes", "p50", "p99", "MB/s"))?;
    for speed in &report.speeds {
        emit(format_args!(
            "{:>5} KiB {:>9} {:>8.0} us {:>8.0} us {:>9.1}",
            speed.bytes >> 10,
            speed.writes,
            speed.write_ns_p50 as f64 / 1e3,
            speed.write_ns_p99 as f64 / 1e3,
            speed.bytes_per_second as f64 / 1e6,
        ))?;
    }
    Ok(())
}
