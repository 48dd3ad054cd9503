//! Compiles the .proto files in pure Rust, so that nobody needs protoc; and lists what they say of
//! methods and fields, for a test of what a collector can make an agent do.

use std::fmt::Write as _;
use std::path::PathBuf;

const FILES: [&str; 2] = ["gatewatch/v1/enrollment.proto", "gatewatch/v1/uplink.proto"];
const PACKAGE: &str = ".gatewatch.v1.";

fn main() -> Result<(), Box<dyn std::error::Error>> {
    for file in FILES {
        println!("cargo:rerun-if-changed={file}");
    }
    let descriptors = protox::compile(FILES, ["."])?;
    let mut contract = String::new();
    for file in &descriptors.file {
        for service in &file.service {
            for method in &service.method {
                let (input, output) = (short(method.input_type()), short(method.output_type()));
                writeln!(contract, "rpc {}.{} {input} {output}", service.name(), method.name())?;
            }
        }
        for message in &file.message_type {
            for field in &message.field {
                let kind = match field.type_name() {
                    "" => field.r#type().as_str_name().trim_start_matches("TYPE_").to_lowercase(),
                    name => short(name).to_owned(),
                };
                let many =
                    if field.label().as_str_name() == "LABEL_REPEATED" { "repeated " } else { "" };
                writeln!(contract, "field {}.{} {many}{kind}", message.name(), field.name())?;
            }
        }
    }
    std::fs::write(PathBuf::from(std::env::var("OUT_DIR")?).join("contract.txt"), contract)?;
    tonic_prost_build::configure()
        // The generated connect() would need tonic's channel feature in the collector too.
        .build_transport(false)
        .btree_map(".")
        .bytes(".gatewatch.v1.Batch.body")
        .compile_fds(descriptors)?;
    Ok(())
}

fn short(name: &str) -> &str {
    name.strip_prefix(PACKAGE).unwrap_or(name)
}
