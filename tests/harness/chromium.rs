//! A real browser without a window, spoken to over a pipe: shows a page at a width and in light or
//! dark, answers scripts and takes pictures.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::process::Command;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::JoinHandle;
use std::time::Duration;

use serde_json::{Value, json};

use crate::process::{Process, find_program};
use crate::root::Root;
use crate::wait::eventually;

/// How long the browser may take for one answer on a busy machine.
const ANSWER_LIMIT: Duration = Duration::from_secs(120);
/// Messages that wait to be read; the browser waits when there are more.
const QUEUE: usize = 1000;
/// What the reader is told last.
const END: &[u8] = b"end";

/// What of a page is too wide, too small or too faint to read, and what it is.
const LOOK: &str = r"(smallest => {
    const light = color => {
        const part = v => { v /= 255; return v <= .04045 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4; };
        return .2126 * part(color[0]) + .7152 * part(color[1]) + .0722 * part(color[2]) + .05;
    };
    const numbers = text => (text.match(/[\d.]+/g) || []).map(Number);
    const paper = element => {
        for (let e = element; e; e = e.parentElement) {
            const color = numbers(getComputedStyle(e).backgroundColor);
            if (color.length === 3 || color[3] > 0) return color;
        }
        return [255, 255, 255];
    };
    const scrolls = element => {
        for (let e = element.parentElement; e; e = e.parentElement)
            if (['auto', 'scroll'].includes(getComputedStyle(e).overflowX)) return true;
        return false;
    };
    const small = [], faint = [], wide = [];
    const walk = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
    for (let node = walk.nextNode(); node; node = walk.nextNode()) {
        const element = node.parentElement, style = getComputedStyle(element);
        if (!node.data.trim() || node.data.trim() === '\u200c' || !element.offsetHeight) continue;
        if (parseFloat(style.fontSize) < smallest) small.push(node.data.trim());
        const [a, b] = [light(numbers(style.color)), light(paper(element))];
        if (Math.max(a, b) / Math.min(a, b) < 4.5) faint.push(node.data.trim() + ' ' + style.color);
    }
    for (const element of document.querySelectorAll('body *')) {
        const box = element.getBoundingClientRect();
        if (box.width && box.right > innerWidth + .5 && !scrolls(element)) wide.push(element.outerHTML.slice(0, 200));
    }
    return {
        width: innerWidth, scroll: document.documentElement.scrollWidth, small, faint, wide,
        images: [...document.images].map(image => image.complete && image.naturalWidth),
        paper: light(paper(document.querySelector('h1'))), title: document.title,
        n_scripts: document.scripts.length, address: location.protocol,
    };
})";

/// The browser; stops in `Drop`.
#[derive(Debug)]
pub struct Chromium {
    root: Root,
    process: Process,
    words: File,
    /// Our own end of the pipe it writes to, to wake the reader in the end.
    answers: File,
    inbox: Receiver<Value>,
    reader: Option<JoinHandle<()>>,
    session: String,
    n_asked: u64,
}

/// Light or dark, as the reader of a page prefers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scheme {
    /// Dark letters on light paper.
    Light,
    /// Light letters on dark paper.
    Dark,
}

impl Chromium {
    /// Starts it with an empty profile and without any connection to the outside.
    #[must_use]
    pub fn start() -> Self {
        let program = find_program(&["chromium"], "chromium");
        let root = Root::new();
        for name in ["words", "answers"] {
            let kind = rustix::fs::FileType::Fifo;
            let mode = rustix::fs::Mode::from_raw_mode(0o600);
            rustix::fs::mknodat(rustix::fs::CWD, root.join(name), kind, mode, 0)
                .expect("the directory takes a pipe");
        }
        // Both ends at once, so that opening waits for nobody.
        let open = |name: &str| {
            let file = File::options().read(true).write(true).open(root.join(name));
            file.expect("a pipe opens")
        };
        let (words, answers) = (open("words"), open("answers"));
        let mut command = Command::new("/bin/sh");
        command
            .args(["-c", "exec \"$@\" 3<words 4>answers", "sh"])
            .arg(program)
            .args(["--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"])
            .args(["--disable-background-networking", "--disable-component-update"])
            .args(["--disable-sync", "--no-first-run", "--hide-scrollbars", "--mute-audio"])
            .args(["--remote-debugging-pipe", "--proxy-server=127.0.0.1:9", "about:blank"])
            .arg(format!("--user-data-dir={}", root.mkdir("profile").display()))
            .env("HOME", root.path())
            .env("XDG_CONFIG_HOME", root.join("config"))
            .env("XDG_CACHE_HOME", root.join("cache"))
            .current_dir(root.path());
        let process = Process::start("chromium", &mut command, &root.join("chromium.log"));
        let (outbox, inbox) = sync_channel(QUEUE);
        let pipe = answers.try_clone().expect("a file handle can be duplicated");
        let reader = std::thread::spawn(move || listen(pipe, &outbox));
        let reader = Some(reader);
        let session = String::new();
        let mut browser =
            Self { root, process, words, answers, inbox, reader, session, n_asked: 0 };
        let made = browser.ask("Target.createTarget", &json!({"url": "about:blank"}));
        let target = made["targetId"].as_str().expect("a page has an id");
        let attach = json!({"targetId": target, "flatten": true});
        let attached = browser.ask("Target.attachToTarget", &attach);
        attached["sessionId"]
            .as_str()
            .expect("a session has an id")
            .clone_into(&mut browser.session);
        browser
    }

    /// Opens `html` in a viewport of this width; a page higher than it is scrolled.
    pub fn open(&mut self, html: &str, width: u32, scheme: Scheme) {
        let scheme = if scheme == Scheme::Dark { "dark" } else { "light" };
        let feature = json!([{"name": "prefers-color-scheme", "value": scheme}]);
        self.ask("Emulation.setEmulatedMedia", &json!({"media": "", "features": feature}));
        let size =
            json!({"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 500});
        self.ask("Emulation.setDeviceMetricsOverride", &size);
        let page = self.root.write("page.html", html);
        let url = format!("file://{}?{}", page.display(), self.n_asked);
        self.ask("Page.navigate", &json!({"url": url}));
        let wanted = url.rsplit('?').next().unwrap_or_default().to_owned();
        let loaded = "location.protocol === 'file:' && document.readyState === 'complete' ?
            location.search : document.readyState";
        let look = json!({"expression": loaded, "returnByValue": true});
        // The page before may answer once more, or be gone while it is asked.
        eventually("the page is shown", ANSWER_LIMIT, || {
            let answer = self.try_ask("Runtime.evaluate", &look);
            let seen = answer["result"]["result"]["value"].as_str().unwrap_or_default();
            let is_there = seen.strip_prefix('?') == Some(&wanted);
            if is_there { Ok(()) } else { Err(answer.to_string()) }
        });
    }

    /// Shows the page as paper would.
    pub fn as_paper(&mut self) {
        self.ask("Emulation.setEmulatedMedia", &json!({"media": "print"}));
    }

    /// The page as a PDF.
    pub fn pdf(&mut self) -> Vec<u8> {
        let answer = self.ask("Page.printToPDF", &json!({"preferCSSPageSize": true}));
        base64(answer["data"].as_str().expect("a PDF is text"))
    }

    /// How the page looks: `wide` lists elements beyond its right edge that no box scrolls, `small`
    /// texts below so many pixels, `faint` texts with less contrast than 4.5.
    pub fn look(&mut self, smallest_px: u32) -> Value {
        self.script(&format!("{LOOK}({smallest_px})"))
    }

    /// What a script says, as JSON; a promise is waited for.
    pub fn script(&mut self, text: &str) -> Value {
        let ask = json!({"expression": text, "awaitPromise": true, "returnByValue": true});
        let answer = self.ask("Runtime.evaluate", &ask);
        assert!(answer["exceptionDetails"].is_null(), "{text}: {answer}");
        answer["result"]["value"].clone()
    }

    /// A picture of the whole page, as PNG.
    pub fn picture(&mut self) -> Vec<u8> {
        self.picture_of_top(u32::MAX)
    }

    /// A picture of the page's upper part, at most so high, as PNG.
    pub fn picture_of_top(&mut self, height_max: u32) -> Vec<u8> {
        let size = format!(
            "[document.documentElement.clientWidth,
            Math.min({height_max}, Math.ceil(document.body.getBoundingClientRect().height))]"
        );
        let size = self.script(&size);
        let clip = json!({"x": 0, "y": 0, "width": size[0], "height": size[1], "scale": 1});
        let ask = json!({"format": "png", "captureBeyondViewport": true, "clip": clip});
        let answer = self.ask("Page.captureScreenshot", &ask);
        base64(answer["data"].as_str().expect("a picture is text"))
    }

    fn ask(&mut self, method: &str, params: &Value) -> Value {
        let answer = self.try_ask(method, params);
        assert!(answer["error"].is_null(), "{method}: {answer}");
        answer["result"].clone()
    }

    /// The whole answer, which may be an error.
    fn try_ask(&mut self, method: &str, params: &Value) -> Value {
        self.n_asked += 1;
        let id = self.n_asked;
        let mut ask = json!({"id": id, "method": method, "params": params});
        if !self.session.is_empty() {
            ask["sessionId"] = json!(self.session);
        }
        let mut bytes = ask.to_string().into_bytes();
        bytes.push(0);
        self.words.write_all(&bytes).expect("the browser reads");
        loop {
            let answer = self
                .inbox
                .recv_timeout(ANSWER_LIMIT)
                .unwrap_or_else(|_| panic!("no answer to {method}: {}", self.process.log_text()));
            if answer["id"] == id {
                return answer;
            }
        }
    }
}

impl Drop for Chromium {
    fn drop(&mut self) {
        self.process.stop();
        // A reader that is gone already needs no waking.
        self.answers.write_all(&[END, &[0]].concat()).ok();
        if let Some(reader) = self.reader.take() {
            // Nobody takes what it still reads, so that it never waits.
            while self.inbox.recv_timeout(Duration::from_secs(5)).is_ok() {}
            reader.join().ok(); // a panic in it has been printed already
        }
        fs::remove_dir_all(self.root.join("profile")).ok(); // the rest goes with the root
    }
}

/// Messages end in a NUL.
fn listen(mut pipe: File, outbox: &SyncSender<Value>) {
    let (mut left, mut chunk) = (Vec::new(), vec![0; 1 << 16]);
    while let Ok(n) = pipe.read(&mut chunk) {
        left.extend_from_slice(&chunk[..n]);
        while let Some(end) = left.iter().position(|byte| *byte == 0) {
            let message: Vec<u8> = left.drain(..=end).collect();
            let message = &message[..end];
            if message.ends_with(END) {
                return;
            }
            let Ok(message) = serde_json::from_slice(message) else { continue };
            if outbox.send(message).is_err() {
                return;
            }
        }
    }
}

/// Bytes of base64; what is none of its letters is left out.
fn base64(text: &str) -> Vec<u8> {
    const LETTERS: &[u8] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let (mut out, mut bits, mut n) = (Vec::new(), 0_u32, 0);
    for value in text.bytes().filter_map(|c| LETTERS.iter().position(|known| *known == c)) {
        bits = bits << 6 | value as u32;
        n += 6;
        if n >= 8 {
            n -= 8;
            out.push((bits >> n) as u8);
            bits &= (1 << n) - 1;
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn base64_comes_back() {
        for (text, bytes) in
            [("", &b""[..]), ("YQ==", b"a"), ("YWI=", b"ab"), ("iVBORw==", b"\x89PNG")]
        {
            assert_eq!(base64(text), bytes, "{text}");
        }
    }
}
