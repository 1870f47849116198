//! Placeholder until the workload is written.
pub fn run(_limit: &str) -> std::io::Result<()> {
    Ok(())
}
