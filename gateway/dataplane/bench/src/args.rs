//! `--key value` command lines: the binaries are run by a program, so a usage page would have no reader.

use std::collections::BTreeMap;
use std::str::FromStr;

/// Parsed options; [`Args::finish`] refuses those that nobody asked for.
pub struct Args {
    options: BTreeMap<String, String>,
}

impl Args {
    /// Reads the options of this process.
    pub fn from_env() -> Result<Self, String> {
        Self::parse(std::env::args().skip(1))
    }

    /// Reads `--key value` pairs.
    pub fn parse(mut words: impl Iterator<Item = String>) -> Result<Self, String> {
        let mut options = BTreeMap::new();
        while let Some(word) = words.next() {
            let key = word
                .strip_prefix("--")
                .ok_or_else(|| format!("expected an option such as --port, got {word:?}"))?;
            let value = words
                .next()
                .ok_or_else(|| format!("--{key} needs a value"))?;
            options.insert(key.to_owned(), value);
        }
        Ok(Self { options })
    }

    /// Takes one option, or its default where it is not given.
    pub fn take<T: FromStr>(&mut self, key: &str, default: T) -> Result<T, String> {
        match self.options.remove(key) {
            None => Ok(default),
            Some(text) => text
                .parse()
                .map_err(|_| format!("--{key}: {text:?} is not a fitting value")),
        }
    }

    /// Takes one option that must be given.
    pub fn require<T: FromStr>(&mut self, key: &str) -> Result<T, String> {
        let text = self
            .options
            .remove(key)
            .ok_or_else(|| format!("--{key} must be given"))?;
        text.parse()
            .map_err(|_| format!("--{key}: {text:?} is not a fitting value"))
    }

    /// Refuses what is left over.
    pub fn finish(self) -> Result<(), String> {
        match self.options.keys().next() {
            None => Ok(()),
            Some(key) => Err(format!("unknown option --{key}")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Args;

    fn args(words: &[&str]) -> Result<Args, String> {
        Args::parse(words.iter().map(|word| (*word).to_owned()))
    }

    #[test]
    fn values_are_typed_and_defaults_fill_in() {
        let mut args = args(&["--port", "80"]).unwrap();
        assert_eq!(args.take("port", 0u16), Ok(80));
        assert_eq!(args.take("streams", 4usize), Ok(4));
        assert!(args.finish().is_ok());
    }

    #[test]
    fn what_is_wrong_is_named() {
        assert!(args(&["port"]).is_err_and(|text| text.contains("port")));
        assert!(args(&["--port"]).is_err_and(|text| text.contains("--port")));
        let mut wrong = args(&["--port", "x", "--prot", "1"]).unwrap();
        assert!(wrong
            .take("port", 0u16)
            .is_err_and(|text| text.contains("--port")));
        assert!(wrong.finish().is_err_and(|text| text.contains("--prot")));
    }
}
