//! Compiles the .proto files in pure Rust, so that nobody needs protoc.

const FILES: [&str; 2] = ["gatewatch/v1/enrollment.proto", "gatewatch/v1/uplink.proto"];

fn main() -> Result<(), Box<dyn std::error::Error>> {
    for file in FILES {
        println!("cargo:rerun-if-changed={file}");
    }
    let descriptors = protox::compile(FILES, ["."])?;
    tonic_prost_build::configure()
        // The generated connect() would need tonic's channel feature in the collector too.
        .build_transport(false)
        .btree_map(".")
        .bytes(".gatewatch.v1.Batch.body")
        .compile_fds(descriptors)?;
    Ok(())
}
