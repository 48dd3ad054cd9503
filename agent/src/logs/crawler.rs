//! Which crawler a `User-Agent` names: a search engine's, or another one's; pure.
//!
//! The name is what the client says of itself, and nothing here verifies it (that would take reverse
//! DNS for each address): anybody may call himself Googlebot. It serves to count the gateway errors
//! that search engines may have seen, and to tell how much of the load crawlers are; it decides
//! nothing. What is told is always a name of these lists, never a text of the client.

/// Product tokens, without their version, and the engine they belong to. SEO tools, previews of
/// links, archives and trainers of models are no search engines: what they see costs no ranking.
const TOKENS: [(&str, &str); 35] = [
    ("Googlebot", "google"),
    ("Googlebot-Image", "google"),
    ("Googlebot-News", "google"),
    ("Googlebot-Video", "google"),
    ("Storebot-Google", "google"),
    ("Google-InspectionTool", "google"),
    ("bingbot", "bing"),
    ("msnbot", "bing"),
    ("msnbot-media", "bing"),
    ("BingPreview", "bing"),
    ("DuckDuckBot", "duckduckgo"),
    ("DuckDuckBot-Https", "duckduckgo"),
    ("YandexBot", "yandex"),
    ("YandexMobileBot", "yandex"),
    ("YandexImages", "yandex"),
    ("YandexVideo", "yandex"),
    ("YandexNews", "yandex"),
    ("YandexRenderResourcesBot", "yandex"),
    ("Baiduspider", "baidu"),
    ("Baiduspider-image", "baidu"),
    ("Baiduspider-video", "baidu"),
    ("Baiduspider-news", "baidu"),
    ("Baiduspider-render", "baidu"),
    ("Applebot", "apple"),
    ("Yahoo! Slurp", "yahoo"),
    ("Sogou web spider", "sogou"),
    ("Sogou+web+spider", "sogou"),
    ("360Spider", "360"),
    ("Yeti", "naver"),
    ("SeznamBot", "seznam"),
    ("Qwantbot", "qwant"),
    ("Qwantify", "qwant"),
    ("PetalBot", "petal"),
    ("MojeekBot", "mojeek"),
    ("coccocbot-web", "coccoc"),
];

/// Others whose visits are load: trainers of models, SEO tools, archives. Token and who runs it.
const OTHERS: [(&str, &str); 32] = [
    ("GPTBot", "openai"),
    ("OAI-SearchBot", "openai"),
    ("ChatGPT-User", "openai"),
    ("ClaudeBot", "anthropic"),
    ("Claude-User", "anthropic"),
    ("Claude-SearchBot", "anthropic"),
    ("anthropic-ai", "anthropic"),
    ("Bytespider", "bytedance"),
    ("TikTokSpider", "bytedance"),
    ("meta-externalagent", "meta"),
    ("meta-externalfetcher", "meta"),
    ("facebookexternalhit", "meta"),
    ("FacebookBot", "meta"),
    ("Amazonbot", "amazon"),
    ("PerplexityBot", "perplexity"),
    ("Perplexity-User", "perplexity"),
    ("CCBot", "commoncrawl"),
    ("GoogleOther", "google"),
    ("Google-CloudVertexBot", "google"),
    ("AhrefsBot", "ahrefs"),
    ("AhrefsSiteAudit", "ahrefs"),
    ("SemrushBot", "semrush"),
    ("SemrushBot-BA", "semrush"),
    ("SiteAuditBot", "semrush"),
    ("DotBot", "moz"),
    ("rogerbot", "moz"),
    ("MJ12bot", "majestic"),
    ("DataForSeoBot", "dataforseo"),
    ("BLEXBot", "seranking"),
    ("Barkrowler", "babbar"),
    ("archive.org_bot", "archive"),
    ("ImagesiftBot", "imagesift"),
];

/// By the byte that a token begins with, in both cases, a bit for each second byte by its low five
/// bits, which are the same in both cases: few places are looked at more closely.
const fn seconds_by_first(tokens: &[(&str, &str)]) -> [u32; 256] {
    let mut seconds = [0; 256];
    let mut at = 0;
    while at < tokens.len() {
        let token = tokens[at].0.as_bytes();
        let second = 1 << (token[1] & 31);
        seconds[token[0].to_ascii_lowercase() as usize] |= second;
        seconds[token[0].to_ascii_uppercase() as usize] |= second;
        at += 1;
    }
    seconds
}

const SECONDS_OF_TOKENS: [u32; 256] = seconds_by_first(&TOKENS);
const SECONDS_OF_OTHERS: [u32; 256] = seconds_by_first(&OTHERS);

/// Bytes of a `User-Agent` that are looked at: a true one is a fifth of it.
const BYTES_MAX: usize = 1024;

/// The search engine that a `User-Agent` claims to crawl for; `None` when it claims none.
///
/// Letter case does not count, and a plus stands for a space, as in the logs of IIS. The name must be
/// a product of its own: part of a longer word, of an address or of `like Googlebot` is not enough.
#[must_use]
pub fn crawler(user_agent: &str) -> Option<&'static str> {
    find(user_agent, &TOKENS, &SECONDS_OF_TOKENS)
}

/// Who runs the crawler that a `User-Agent` claims to be, of a search engine or not.
#[must_use]
pub fn any_crawler(user_agent: &str) -> Option<&'static str> {
    crawler(user_agent).or_else(|| find(user_agent, &OTHERS, &SECONDS_OF_OTHERS))
}

fn find(
    user_agent: &str,
    tokens: &[(&str, &'static str)],
    seconds: &[u32; 256],
) -> Option<&'static str> {
    let text = &user_agent.as_bytes()[..user_agent.len().min(BYTES_MAX)];
    for (start, pair) in text.array_windows().enumerate() {
        let [first, second]: &[u8; 2] = pair;
        if seconds[*first as usize] >> (second & 31) & 1 == 0 {
            continue;
        }
        if start > 0 && !is_between(text[start - 1]) || follows_like(&text[..start]) {
            continue;
        }
        let begins = |token: &str| token.as_bytes()[0].eq_ignore_ascii_case(first);
        let mut near = tokens.iter().filter(|(token, _)| begins(token));
        if let Some((_, engine)) = near.find(|(token, _)| names(&text[start..], token)) {
            return Some(engine);
        }
    }
    None
}

/// What may stand before a product.
fn is_between(byte: u8) -> bool {
    matches!(byte, b' ' | b'+' | b';' | b'(' | b',' | b'\t')
}

/// True when `text` begins with the token, and the token ends there.
fn names(text: &[u8], token: &str) -> bool {
    let Some((head, rest)) = text.split_at_checked(token.len()) else { return false };
    let ends = rest.first().is_none_or(|byte| matches!(byte, b'/' | b')') || is_between(*byte));
    ends && head.eq_ignore_ascii_case(token.as_bytes())
}

fn follows_like(before: &[u8]) -> bool {
    let word = before.trim_ascii_end().strip_suffix(b"+").unwrap_or(before.trim_ascii_end());
    word.len() >= 4 && word[word.len() - 4..].eq_ignore_ascii_case(b"like")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(cases: &[(&str, Option<&str>)]) {
        for (user_agent, want) in cases {
            assert_eq!(crawler(user_agent), *want, "{user_agent}");
        }
    }

    #[test]
    fn crawlers_are_known_by_the_names_they_give() {
        check(&[
            (
                "Mozilla/5.0 (compatible; Googlebot/2.1; +http://www.google.com/bot.html)",
                Some("google"),
            ),
            (
                "Mozilla/5.0 AppleWebKit/537.36 (KHTML, like Gecko; compatible; Googlebot/2.1; \
                 +http://www.google.com/bot.html) Chrome/131.0.0.0 Safari/537.36",
                Some("google"),
            ),
            ("Googlebot/2.1 (+http://www.google.com/bot.html)", Some("google")),
            ("Googlebot-Image/1.0", Some("google")),
            (
                "Mozilla/5.0 AppleWebKit/537.36 (KHTML, like Gecko; compatible; bingbot/2.0; \
                 +http://www.bing.com/bingbot.htm) Chrome/116.0.1938.76 Safari/537.36",
                Some("bing"),
            ),
            ("msnbot-media/1.1 (+http://search.msn.com/msnbot.htm)", Some("bing")),
            ("DuckDuckBot/1.1; (+http://duckduckgo.com/duckduckbot.html)", Some("duckduckgo")),
            ("Mozilla/5.0 (compatible; YandexBot/3.0; +http://yandex.com/bots)", Some("yandex")),
            (
                "Mozilla/5.0 (compatible; Baiduspider/2.0; \
                 +http://www.baidu.com/search/spider.html)",
                Some("baidu"),
            ),
            ("Baiduspider-image+(+http://www.baidu.com/search/spider.htm)", Some("baidu")),
            (
                "Mozilla/5.0 (Macintosh; Intel Mac OS X 10_15_5) AppleWebKit/605.1.15 (KHTML, \
                 like Gecko) Version/13.1.1 Safari/605.1.15 (Applebot/0.1; \
                 +http://www.apple.com/go/applebot)",
                Some("apple"),
            ),
            (
                "Mozilla/5.0 (compatible; Yahoo! Slurp; \
                 http://help.yahoo.com/help/us/ysearch/slurp)",
                Some("yahoo"),
            ),
            (
                "Sogou web spider/4.0(+http://www.sogou.com/docs/help/webmasters.htm#07)",
                Some("sogou"),
            ),
            ("Mozilla/5.0 (compatible; Yeti/1.1; +https://naver.me/spd)", Some("naver")),
            // IIS writes spaces as plus signs.
            (
                "Mozilla/5.0+(compatible;+bingbot/2.0;++http://www.bing.com/bingbot.htm)",
                Some("bing"),
            ),
            ("GOOGLEBOT/2.1", Some("google")),
            // A claim is a claim, whoever makes it.
            ("curl/8.5.0 Googlebot", Some("google")),
        ]);
    }

    #[test]
    fn what_only_looks_like_a_crawler_is_none() {
        check(&[
            ("", None),
            ("-", None),
            ("feed", None),
            (
                "Mozilla/5.0 (Windows NT 10.0; Win64; x64) AppleWebKit/537.36 (KHTML, like Gecko) \
                 Chrome/131.0.0.0 Safari/537.36",
                None,
            ),
            ("NotGooglebot/1.0", None),
            ("Googlebotox/1.0", None),
            ("Googlebot-Evil/1.0", None),
            ("Googlebot.example/1.0", None),
            ("x-Googlebot/1.0", None),
            ("Mozilla/5.0 (+http://evil.example/Googlebot/2.1)", None),
            ("Mozilla/5.0 (compatible; Foo/1.0; like Googlebot/2.1)", None),
            ("Foo/1.0+(like+Googlebot/2.1)", None),
            ("AdsBot-Google (+http://www.google.com/adsbot.html)", None),
            ("Mozilla/5.0 (compatible; AhrefsBot/7.0; +http://ahrefs.com/robot/)", None),
            ("facebookexternalhit/1.1", None),
            ("Yetisports/2.0", None),
            ("Slurp", None),
            ("Googlebo", None),
            ("\u{261}ooglebot/2.1", None),
            ("Goog\0lebot/2.1", None),
        ]);
    }

    #[test]
    fn crawlers_of_others_are_known_too_where_all_are_asked_for() {
        for (user_agent, want) in [
            (
                "Mozilla/5.0 AppleWebKit/537.36 (KHTML, like Gecko; compatible; GPTBot/1.2; \
                 +https://openai.com/gptbot)",
                Some("openai"),
            ),
            (
                "Mozilla/5.0 AppleWebKit/537.36 (KHTML, like Gecko; compatible; ClaudeBot/1.0; \
                 +claudebot@anthropic.com)",
                Some("anthropic"),
            ),
            ("Mozilla/5.0 (compatible; AhrefsBot/7.0; +http://ahrefs.com/robot/)", Some("ahrefs")),
            ("Mozilla/5.0 (compatible; SemrushBot/7~bl; +http://x.example)", Some("semrush")),
            ("Mozilla/5.0 (compatible; Bytespider; spider-feedback@x.example)", Some("bytedance")),
            ("Googlebot/2.1 (+http://www.google.com/bot.html)", Some("google")),
            ("NotGPTBot/1.0", None),
            ("Mozilla/5.0 (X11; Linux x86_64)", None),
        ] {
            assert_eq!(any_crawler(user_agent), want, "{user_agent}");
        }
    }

    #[test]
    fn a_name_after_a_flood_of_text_is_not_looked_for() {
        assert_eq!(crawler(&format!("{} Googlebot/2.1", "\u{e4}".repeat(1 << 20))), None);
        assert_eq!(crawler(&format!("{} Googlebot/2.1", "(".repeat(900))), Some("google"));
    }
}
