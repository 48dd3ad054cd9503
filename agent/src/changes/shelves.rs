//! Where applications keep their version, plugins and themes, and how these tell theirs; pure but for
//! the reading of a folder that it is handed.

use std::path::Path;

use super::docroot::{Folder, version, version_behind};

/// Read of a file for its version and its hash.
pub(super) const HEAD_BYTES_MAX: u64 = 128 << 10;
/// Read of a file to see whether it has a header; WordPress reads as much.
const HEADER_BYTES_MAX: u64 = 8 << 10;
/// Files of one plugin that are searched for its header.
const SEARCHED_MAX: usize = 8;
/// Names of one plugin's folder among which they are.
const SEARCHED_NAMES_MAX: usize = 64;

/// An application, by the file that has its version.
#[derive(Debug)]
pub(super) struct Core {
    pub(super) name: &'static str,
    pub(super) folder: &'static str,
    pub(super) file: &'static str,
    /// The text before the version.
    before: &'static str,
    pub(super) shelves: &'static [Shelf],
}

/// A folder of plugins or themes.
#[derive(Debug)]
pub(super) struct Shelf {
    /// `plugin`, `theme`, `module`.
    pub(super) word: &'static str,
    pub(super) folder: &'static str,
    main: Main,
}

/// The file of a plugin that tells its version.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Main {
    /// A PHP file with a header `Plugin Name:`.
    Header,
    /// This one.
    Fixed(&'static str),
    /// Named as the folder, without this beginning, with one of these ends.
    Named(&'static str, &'static [&'static str]),
}

pub(super) const CORES: [Core; 8] = [
    Core {
        name: "WordPress",
        folder: "wp-includes",
        file: "version.php",
        before: "$wp_version = ",
        shelves: &[
            Shelf { word: "plugin", folder: "wp-content/plugins", main: Main::Header },
            Shelf { word: "theme", folder: "wp-content/themes", main: Main::Fixed("style.css") },
            Shelf { word: "must-use plugin", folder: "wp-content/mu-plugins", main: Main::Header },
        ],
    },
    Core {
        name: "Joomla",
        folder: "administrator/manifests/files",
        file: "joomla.xml",
        before: "<version>",
        shelves: &[
            Shelf {
                word: "component",
                folder: "administrator/components",
                main: Main::Named("com_", &[".xml"]),
            },
            Shelf { word: "plugin", folder: "plugins/system", main: Main::Named("", &[".xml"]) },
            Shelf { word: "plugin", folder: "plugins/content", main: Main::Named("", &[".xml"]) },
            Shelf { word: "plugin", folder: "plugins/user", main: Main::Named("", &[".xml"]) },
            Shelf { word: "module", folder: "modules", main: Main::Named("", &[".xml"]) },
            Shelf {
                word: "template",
                folder: "templates",
                main: Main::Fixed("templateDetails.xml"),
            },
        ],
    },
    Core {
        name: "Drupal",
        folder: "core/lib",
        file: "Drupal.php",
        before: "const VERSION = ",
        shelves: &[
            Shelf {
                word: "module",
                folder: "modules/contrib",
                main: Main::Named("", &[".info.yml"]),
            },
            Shelf {
                word: "module",
                folder: "modules/custom",
                main: Main::Named("", &[".info.yml"]),
            },
            Shelf {
                word: "theme",
                folder: "themes/contrib",
                main: Main::Named("", &[".info.yml"]),
            },
        ],
    },
    Core {
        name: "Drupal",
        folder: "includes",
        file: "bootstrap.inc",
        before: "define('VERSION', ",
        shelves: &[Shelf {
            word: "module",
            folder: "sites/all/modules",
            main: Main::Named("", &[".info"]),
        }],
    },
    Core {
        name: "PrestaShop",
        folder: "config",
        file: "settings.inc.php",
        before: "'_PS_VERSION_', ",
        shelves: &[Shelf { word: "module", folder: "modules", main: Main::Fixed("config.xml") }],
    },
    Core {
        name: "PrestaShop",
        folder: "app",
        file: "AppKernel.php",
        before: "const VERSION = ",
        shelves: &[Shelf { word: "module", folder: "modules", main: Main::Fixed("config.xml") }],
    },
    Core {
        name: "MediaWiki",
        folder: "includes",
        file: "Defines.php",
        before: "'MW_VERSION', ",
        shelves: &[Shelf {
            word: "extension",
            folder: "extensions",
            main: Main::Fixed("extension.json"),
        }],
    },
    Core {
        name: "Nextcloud",
        folder: "",
        file: "version.php",
        before: "$OC_VersionString = ",
        shelves: &[Shelf { word: "app", folder: "apps", main: Main::Fixed("appinfo.xml") }],
    },
];

impl Core {
    pub(super) fn version(&self, text: &str) -> Option<String> {
        version_behind(text, self.before)
    }
}

impl Shelf {
    /// The file of a plugin that tells its version, and its beginning; `name` may be a file itself.
    pub(super) fn main_file(&self, shelf: &Folder, name: &str) -> Option<(String, Vec<u8>)> {
        if self.main == Main::Header && is_php(name) {
            let text = with_header(shelf, name)?;
            return Some((String::new(), text));
        }
        let folder = shelf.below(name).ok()?;
        let read = |file: String| {
            let text = folder.read(&file, HEAD_BYTES_MAX).ok()?;
            Some((file, text))
        };
        match self.main {
            Main::Fixed(file) => read(file.to_owned()),
            Main::Named(start, ends) => {
                let stem = name.strip_prefix(start).unwrap_or(name);
                ends.iter().find_map(|end| read(format!("{stem}{end}")))
            }
            Main::Header => {
                let of_php = |file: String| with_header(&folder, &file).map(|text| (file, text));
                of_php(format!("{name}.php")).or_else(|| {
                    let names = folder.names(SEARCHED_NAMES_MAX).ok()?.0.into_iter();
                    names.filter(|file| is_php(file)).take(SEARCHED_MAX).find_map(of_php)
                })
            }
        }
    }

    /// The version that the beginning of its main file tells; empty when it tells none.
    pub(super) fn version(&self, text: &[u8]) -> String {
        let text = String::from_utf8_lossy(text);
        let found = match self.main {
            Main::Header | Main::Fixed("style.css") => {
                let lines = text.lines().map(|line| line.trim_start_matches([' ', '\t', '*', '#']));
                let mut versions = lines.filter_map(|line| line.strip_prefix("Version:"));
                versions.next().and_then(version)
            }
            Main::Fixed("config.xml") => version_behind(&text, "<version><![CDATA["),
            Main::Fixed("extension.json") => version_behind(&text, "\"version\":"),
            Main::Fixed(_) | Main::Named(_, [".xml"]) => version_behind(&text, "<version>"),
            Main::Named(..) => {
                let mut lines = text.lines().filter_map(|line| line.strip_prefix("version"));
                lines.next().map(|rest| rest.trim_start_matches([' ', ':', '='])).and_then(version)
            }
        };
        found.unwrap_or_default()
    }
}

fn is_php(name: &str) -> bool {
    Path::new(name).extension().is_some_and(|end| end == "php")
}

/// The beginning of a file that has the header of a plugin.
fn with_header(folder: &Folder, file: &str) -> Option<Vec<u8>> {
    let head = folder.read(file, HEADER_BYTES_MAX).ok()?;
    let has_header = memchr::memmem::find(&head, b"Plugin Name:").is_some();
    if !has_header {
        return None;
    }
    if (head.len() as u64) < HEADER_BYTES_MAX {
        return Some(head);
    }
    folder.read(file, HEAD_BYTES_MAX).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    fn shelf(application: &str, word: &str, folder: &str) -> &'static Shelf {
        let cores = CORES.iter().filter(|core| core.name == application);
        let mut shelves = cores.flat_map(|core| core.shelves);
        shelves.find(|shelf| (shelf.word, shelf.folder) == (word, folder)).unwrap()
    }

    #[test]
    fn folders_are_few_enough_to_be_numbered_and_themes_are_the_second_of_wordpress() {
        assert!(CORES.iter().all(|core| core.shelves.len() < 250));
        let themes = &CORES[0].shelves[1];
        assert_eq!((CORES[0].name, themes.folder), ("WordPress", "wp-content/themes"));
    }

    #[test]
    fn each_kind_of_plugin_tells_its_version_in_its_own_way() {
        let dir = tempfile::tempdir().unwrap();
        let check = |of: (&str, &str, &str), name: &str, file: &str, text: &str, want: &str| {
            let (application, word, folder) = of;
            let path = dir.path().join(folder).join(name).join(file);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(&path, text).unwrap();
            let shelf = shelf(application, word, folder);
            let top = Folder::open(&dir.path().join(folder)).unwrap();
            let found =
                shelf.main_file(&top, name).map(|(file, text)| (file, shelf.version(&text)));
            assert_eq!(found, Some((file.to_owned(), want.to_owned())), "{word} {name}");
        };
        let plugins = ("WordPress", "plugin", "wp-content/plugins");
        let header = "<?php\n/**\n * Plugin Name: Shop\n * Version: 8.2.0\n */";
        check(plugins, "woocommerce", "woocommerce.php", header, "8.2.0");
        check(plugins, "old-shop", "loader.php", header, "8.2.0");
        check(plugins, "bare", "bare.php", "<?php /* Plugin Name: x */", "");
        let themes = ("WordPress", "theme", "wp-content/themes");
        check(themes, "twenty", "style.css", "/*\nTheme Name: T\nVersion: 1.3\n*/", "1.3");
        let components = ("Joomla", "component", "administrator/components");
        let text = "<extension><version>4.1.2</version></extension>";
        check(components, "com_shop", "shop.xml", text, "4.1.2");
        let modules = ("Drupal", "module", "modules/contrib");
        let text = "name: Token\nversion: '8.x-1.15'\n";
        check(modules, "token", "token.info.yml", text, "8.x-1.15");
        let modules = ("PrestaShop", "module", "modules");
        let text = "<module><version><![CDATA[2.1.0]]></version>";
        check(modules, "blockcart", "config.xml", text, "2.1.0");
        // What stands in the folder and is none.
        fs::write(dir.path().join(plugins.2).join("index.php"), "<?php // Silence").unwrap();
        fs::write(dir.path().join(plugins.2).join("hello.php"), header).unwrap();
        let top = Folder::open(&dir.path().join(plugins.2)).unwrap();
        let shelf = shelf(plugins.0, plugins.1, plugins.2);
        assert_eq!(shelf.main_file(&top, "index.php"), None);
        assert_eq!(shelf.main_file(&top, "hello.php").map(|(file, _)| file), Some(String::new()));
        assert_eq!(shelf.main_file(&top, "gone"), None);
    }
}
