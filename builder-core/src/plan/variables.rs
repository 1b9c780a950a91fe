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
    list: Vec<Variable>,
    positions: BTreeMap<String, usize>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Variable {
    name: String,
    value: String,
    is_env: bool,
}

impl Variables {
    /// Reads `NAME=value` texts of an image's configuration.
    pub(crate) fn from_texts(texts: &[String]) -> Self {
        let mut variables = Self::default();
        for text in texts {
            let (name, value) = text.split_once('=').unwrap_or((text, ""));
            variables.set_env(name, value);
        }
        variables
    }

    /// Sets a variable as ARG does.
    pub(crate) fn set(&mut self, name: &str, value: &str) {
        self.variable(name).value = value.to_owned();
    }

    /// Sets a variable as ENV does, here or in the base image.
    pub(crate) fn set_env(&mut self, name: &str, value: &str) {
        let variable = self.variable(name);
        variable.value = value.to_owned();
        variable.is_env = true;
    }

    fn variable(&mut self, name: &str) -> &mut Variable {
        let position = match self.positions.get(name) {
            Some(position) => *position,
            None => {
                self.positions.insert(name.to_owned(), self.list.len());
                self.list.push(Variable { name: name.to_owned(), value: String::new(), is_env: false });
                self.list.len() - 1
            }
        };
        &mut self.list[position]
    }

    fn find(&self, name: &str) -> Option<&Variable> {
        self.positions.get(name).map(|&position| &self.list[position])
    }

    pub(crate) fn value(&self, name: &str) -> Option<&str> {
        self.find(name).map(|variable| variable.value.as_str())
    }

    /// Whether ENV set a variable, here or in the base image.
    pub(crate) fn is_env(&self, name: &str) -> bool {
        self.find(name).is_some_and(|variable| variable.is_env)
    }

    /// The names and values.
    pub(crate) fn pairs(&self) -> impl Iterator<Item = (String, String)> {
        self.list.iter().map(|variable| (variable.name.clone(), variable.value.clone()))
    }

    /// The names of those that only ARG set.
    pub(crate) fn args(&self) -> impl Iterator<Item = &str> {
        self.list.iter().filter(|variable| !variable.is_env).map(|variable| variable.name.as_str())
    }
}

/// Sets a variable in an image's configuration, in place where it is there already.
pub(crate) fn set_text(texts: &mut Vec<String>, name: &str, value: &str) {
    let text = format!("{name}={value}");
    let is_named = |text: &String| text.strip_prefix(name).is_some_and(|rest| rest.is_empty() || rest.starts_with('='));
    match texts.iter_mut().find(|text| is_named(text)) {
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
        variables.set("C", "4");
        let want = [("A", "3"), ("B", "2"), ("C", "4")].map(|(name, value)| (name.to_owned(), value.to_owned()));
        assert_eq!(variables.pairs().collect::<Vec<_>>(), want);
        assert_eq!(variables.args().collect::<Vec<_>>(), ["C"]);
        variables.set_env("C", "5");
        assert!(variables.is_env("C") && variables.args().next().is_none());
        let mut texts = vec!["A=1".to_owned(), "AB=2".to_owned()];
        set_text(&mut texts, "A", "x=y");
        set_text(&mut texts, "C", "");
        assert_eq!(texts, ["A=x=y", "AB=2", "C="]);
    }
}
