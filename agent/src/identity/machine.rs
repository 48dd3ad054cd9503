//! Labels the agent finds out by itself; the weakest kind. Reads files only.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

/// `os`, `arch`, `kernel` and `virtualization`, as far as this machine tells.
pub(crate) fn labels(root: &Path) -> BTreeMap<String, String> {
    let read = |path: &str| fs::read_to_string(root.join(path)).ok();
    let mut labels = BTreeMap::new();
    let mut found = |key: &str, value: Option<String>| {
        let value = value.map(|v| v.trim().chars().take(64).collect::<String>());
        if let Some(value) = value.filter(|v| !v.is_empty() && !v.contains(char::is_control)) {
            labels.insert(key.to_owned(), value);
        }
    };
    found("arch", Some(std::env::consts::ARCH.to_owned()));
    found("os", read("etc/os-release").and_then(|text| os(&text)));
    found("kernel", read("proc/sys/kernel/osrelease"));
    let is_container = root.join("run/.containerenv").exists()
        || root.join(".dockerenv").exists()
        || root.join("run/systemd/container").exists();
    let vendor = read("sys/class/dmi/id/sys_vendor").unwrap_or_default();
    let product = read("sys/class/dmi/id/product_name").unwrap_or_default();
    let cpu = read("proc/cpuinfo").unwrap_or_default();
    let machine = machine(&vendor, &product, cpu.contains(" hypervisor"));
    found("virtualization", Some(if is_container { "container" } else { machine }.to_owned()));
    labels
}

/// `debian 12` out of os-release.
fn os(text: &str) -> Option<String> {
    let value = |key: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix('='))?;
        Some(line.trim_matches('"').to_owned())
    };
    let id = value("ID")?;
    Some(match value("VERSION_ID") {
        Some(version) => format!("{id} {version}"),
        None => id,
    })
}

/// What runs this machine, by what its firmware says.
fn machine(vendor: &str, product: &str, is_guest: bool) -> &'static str {
    let firmware = format!("{vendor} {product}").to_lowercase();
    let known = [
        ("qemu", "kvm"),
        ("kvm", "kvm"),
        ("openstack", "kvm"),
        ("hetzner", "kvm"),
        ("digitalocean", "kvm"),
        ("vmware", "vmware"),
        ("virtualbox", "virtualbox"),
        ("innotek", "virtualbox"),
        ("xen", "xen"),
        ("microsoft corporation virtual machine", "hyper-v"),
        ("amazon ec2", "ec2"),
        ("google compute", "gce"),
    ];
    match known.iter().find(|(text, _)| firmware.contains(text)) {
        Some((_, name)) if is_guest => name,
        _ if is_guest => "vm",
        _ => "none",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn machines_are_told_by_their_firmware() {
        for (vendor, product, is_guest, expected) in [
            ("QEMU\n", "Standard PC (Q35 + ICH9, 2009)\n", true, "kvm"),
            ("VMware, Inc.", "VMware7,1", true, "vmware"),
            ("Microsoft Corporation", "Virtual Machine", true, "hyper-v"),
            ("Amazon EC2", "t3.micro", true, "ec2"),
            ("Amazon EC2", "m5.metal", false, "none"),
            ("Somebody", "Something", true, "vm"),
            ("", "", false, "none"),
        ] {
            assert_eq!(machine(vendor, product, is_guest), expected, "{vendor} {product}");
        }
    }

    #[test]
    fn the_os_is_its_id_and_version() {
        assert_eq!(os("NAME=x\nID=debian\nVERSION_ID=\"12\"\n").as_deref(), Some("debian 12"));
        assert_eq!(os("ID=arch\n").as_deref(), Some("arch"));
        assert_eq!(os("NAME=x\n"), None);
    }

    #[test]
    fn an_empty_root_still_has_an_architecture() {
        let dir = tempfile::tempdir().unwrap();
        let labels = labels(dir.path());
        assert_eq!(labels["arch"], std::env::consts::ARCH);
        assert_eq!(labels.get("os"), None);
    }
}
