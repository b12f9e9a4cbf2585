//! Patterns of keys, as in `SCAN MATCH`.

/// Glob patterns of Redis: `*`, `?`, `[a-z]`, `[^a]`, `\`. Linear in the text for each `*`, without recursion.
pub fn matches(pattern: &[u8], text: &[u8]) -> bool {
    let (mut p, mut t) = (0, 0);
    // Where to go on if what follows the last `*` does not fit.
    let mut star: Option<(usize, usize)> = None;
    while t < text.len() {
        if pattern.get(p) == Some(&b'*') {
            star = Some((p + 1, t));
            p += 1;
        } else if let Some(next) = step(pattern, p, text[t]) {
            p = next;
            t += 1;
        } else if let Some((after, from)) = star {
            p = after;
            t = from + 1;
            star = Some((after, t));
        } else {
            return false;
        }
    }
    pattern[p..].iter().all(|&byte| byte == b'*')
}

/// If the pattern at `p` takes one byte, where it goes on.
fn step(pattern: &[u8], p: usize, byte: u8) -> Option<usize> {
    match *pattern.get(p)? {
        b'?' => Some(p + 1),
        b'\\' if p + 1 < pattern.len() => (pattern[p + 1] == byte).then_some(p + 2),
        b'[' => {
            let mut at = p + 1;
            let inverted = pattern.get(at) == Some(&b'^');
            at += usize::from(inverted);
            let mut hit = false;
            while let Some(&first) = pattern.get(at).filter(|&&byte| byte != b']') {
                let first = if first == b'\\' && at + 1 < pattern.len() {
                    at += 1;
                    pattern[at]
                } else {
                    first
                };
                if pattern.get(at + 1) == Some(&b'-') && at + 2 < pattern.len() && pattern[at + 2] != b']' {
                    let last = pattern[at + 2];
                    hit |= (first.min(last)..=first.max(last)).contains(&byte);
                    at += 3;
                } else {
                    hit |= first == byte;
                    at += 1;
                }
            }
            (hit != inverted).then_some((at + 1).min(pattern.len()))
        }
        literal => (literal == byte).then_some(p + 1),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_match_as_those_of_redis() {
        let check = |pattern: &str, text: &str, expected: bool| {
            assert_eq!(matches(pattern.as_bytes(), text.as_bytes()), expected, "{pattern} {text}");
        };
        check("*", "", true);
        check("h?llo", "hello", true);
        check("h*llo", "heeeello", true);
        check("h[ae]llo", "hillo", false);
        check("h[^e]llo", "hallo", true);
        check("h[^e]llo", "hello", false);
        check("h[a-b]llo", "hbllo", true);
        check(r"h\*llo", "h*llo", true);
        check(r"h\*llo", "hello", false);
        check("a*b*c", "aXbXbc", true);
        check("a*b*c", "aXbXb", false);
        check("[", "[", false);
        check(&"a*".repeat(40), &"a".repeat(60), true);
        check(&format!("{}b", "a*".repeat(40)), &"a".repeat(200), false);
    }
}
