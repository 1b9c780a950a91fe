//! Variables: what an instruction sees, and what a RUN step's environment is.

use std::collections::BTreeMap;

/// Proxy arguments: in the environment of RUN without being declared, and in no key and no history.
pub(crate) const PROXY_ARGS: [&str; 10] = [
    "HTTP_PROXY",
    "http_proxy",
    "HTTPS_PROXY",
    "https_proxy",
    "FTP_PROXY",
    "ftp_proxy",
    "NO_PROXY",
    "no_proxy",
    "ALL_PROXY",
    "all_proxy",
];

/// The search path of images that have none (Dockerfile reference, "ENV").
pub(crate) const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Variables in the order they were first set. Of ARG and ENV with one name, the later instruction wins.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Variables {
    list: Vec<(String, String)>,
    positions: BTreeMap<String, usize>,
}

impl Variables {
    /// Reads `NAME=value` texts of an image's configuration.
    pub(crate) fn from_texts(texts: &[String]) -> Self {
        let mut variables = Self::default();
        for text in texts {
            let (name, value) = text.split_once('=').unwrap_or((text, ""));
            variables.set(name, value);
        }
        variables
    }

    pub(crate) fn set(&mut self, name: &str, value: &str) {
        if let Some(&position) = self.positions.get(name) {
            value.clone_into(&mut self.list[position].1);
        } else {
            self.positions.insert(name.to_owned(), self.list.len());
            self.list.push((name.to_owned(), value.to_owned()));
        }
    }

    pub(crate) fn value(&self, name: &str) -> Option<&str> {
        self.positions.get(name).map(|&position| self.list[position].1.as_str())
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &(String, String)> {
        self.list.iter()
    }
}

/// Sets a variable in an image's configuration, in place where it is there already.
pub(crate) fn set_text(texts: &mut Vec<String>, name: &str, value: &str) {
    let text = format!("{name}={value}");
    match texts.iter_mut().find(|t| t.split_once('=').map_or(t.as_str(), |(n, _)| n) == name) {
        Some(old) => *old = text,
        None => texts.push(text),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn later_values_keep_the_place_of_the_first() {
        let mut variables = Variables::from_texts(&["A=1".into(), "B=2".into()]);
        variables.set("A", "3");
        assert_eq!(variables.iter().map(|(n, v)| format!("{n}={v}")).collect::<Vec<_>>(), ["A=3", "B=2"]);
        let mut texts = vec!["A=1".to_owned(), "AB=2".to_owned()];
        set_text(&mut texts, "A", "x=y");
        set_text(&mut texts, "C", "");
        assert_eq!(texts, ["A=x=y", "AB=2", "C="]);
    }
}
