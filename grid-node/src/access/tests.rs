use super::*;
use crate::command::table::find;

fn user(rules: &str) -> User {
    User::with_rules("u", rules).unwrap()
}

fn may(user: &User, line: &str) -> Result<(), Denied> {
    let words: Vec<Bytes> = line.split(' ').map(|word| Bytes::copy_from_slice(word.as_bytes())).collect();
    user.may(find(&words[0]).unwrap(), &words)
}

#[test]
fn rules_come_back() {
    for (rules, told) in [
        ("on nopass ~* &* +@all", "on nopass sanitize-payload ~* &* +@all"),
        ("on nopass resetchannels &foo +@all", "on nopass sanitize-payload resetchannels &foo +@all"),
        ("off +@all -@hash -@slow +hget", "off sanitize-payload resetchannels +@all -@hash -@slow +hget"),
        (
            "%R~a %W~a %RW~b %R~c +get (~k -@all +set)",
            "off sanitize-payload ~a ~b %R~c resetchannels -@all +get (~k resetchannels -@all +set)",
        ),
        (
            "+client|list +client|list +config|get +config +acl|list -acl",
            "off sanitize-payload resetchannels -@all +client|list +config -acl",
        ),
    ] {
        let user = user(rules);
        assert_eq!(user.rules(), told);
        assert_eq!(User::with_rules("u", told).unwrap(), user, "{told}");
    }
}

#[test]
fn what_is_not_allowed_is_refused_and_why() {
    let reader = user("on +@read %R~r* %W~w* +client|id +select|0 -@dangerous");
    assert_eq!(may(&reader, "GET r1"), Ok(()));
    assert_eq!(may(&reader, "EXISTS w1"), Ok(()));
    assert_eq!(may(&reader, "GET w1"), Err(Denied::Key(0, Bytes::from_static(b"w1"))));
    assert_eq!(may(&reader, "SET r1 v"), Err(Denied::Command("set".to_owned())));
    assert_eq!(may(&reader, "CLIENT ID"), Ok(()));
    assert_eq!(may(&reader, "CLIENT LIST"), Err(Denied::Command("client|list".to_owned())));
    assert_eq!(may(&reader, "SELECT 0"), Ok(()));
    assert_eq!(may(&reader, "SELECT 1"), Err(Denied::Command("select".to_owned())));
    let both = user("on +copy %R~r %W~w (+mget ~a) (+mget ~a ~b)");
    assert_eq!(may(&both, "COPY r w"), Ok(()));
    assert_eq!(may(&both, "COPY w r"), Err(Denied::Key(0, Bytes::from_static(b"w"))));
    assert_eq!(may(&both, "MGET a b"), Ok(()));
    // Of the selector that allows most of it.
    assert_eq!(may(&both, "MGET a b c"), Err(Denied::Key(2, Bytes::from_static(b"c"))));
    let hearer = user("on +@pubsub &news:* &exact");
    assert_eq!(may(&hearer, "PUBLISH news:1 x"), Ok(()));
    assert_eq!(may(&hearer, "PSUBSCRIBE news:*"), Ok(()));
    assert!(may(&hearer, "PSUBSCRIBE news:1*").is_err() && may(&hearer, "SUBSCRIBE exact other").is_err());
    assert_eq!(may(&hearer, "UNSUBSCRIBE other"), Ok(()));
}

#[test]
fn passwords_are_kept_as_their_hashes() {
    let mut user = user("on >one");
    assert!(user.is_password(b"one") && !user.is_password(b"two"));
    assert!(!user.rules().contains("one"));
    let rules = |text: &str| vec![Bytes::copy_from_slice(text.as_bytes())];
    user.change(&rules(">two")).unwrap();
    user.change(&rules("<one")).unwrap();
    assert!(!user.is_password(b"one") && user.is_password(b"two"));
    assert_eq!(user.change(&rules("<none")).unwrap_err().1, BadRule::NoSuchPassword);
    assert_eq!(user.change(&rules("#12")).unwrap_err().1, BadRule::NoHash);
    user.change(&rules("off")).unwrap();
    assert!(!user.is_password(b"two"));
    assert!(User::default_user(Some("p")).is_password(b"p") && User::default_user(None).is_password(b"any"));
}
