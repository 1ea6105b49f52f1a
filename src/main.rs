//! Arguments in, exit code out: 0 done, 1 failed, 2 wrong usage, configuration or folder.

/// jemalloc gives memory of closed connections back to the system (docs/decisions/0003-jemalloc.md).
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

fn main() -> std::process::ExitCode {
    sidekey::cli::main()
}
