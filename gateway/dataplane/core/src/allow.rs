//! Calls that change or expose the backend, and the key that opens them.

/// Groups of `protocol.allow` and the methods in them.
const GROUPS: [(&str, &[&str]); 4] = [
    (
        "repository",
        &["RepositoryModelLoad", "RepositoryModelUnload"],
    ),
    (
        "shared_memory",
        &[
            "SystemSharedMemoryStatus",
            "SystemSharedMemoryRegister",
            "SystemSharedMemoryUnregister",
            "CudaSharedMemoryStatus",
            "CudaSharedMemoryRegister",
            "CudaSharedMemoryUnregister",
        ],
    ),
    ("trace", &["TraceSetting"]),
    ("log", &["LogSettings"]),
];

/// Which of these calls are open to clients.
#[derive(Debug)]
pub(crate) struct Allow(Vec<String>);

/// What to do with a method that the gateway does not answer itself.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// Pass it through.
    Open,
    /// Refuse it with this text.
    Closed(String),
}

impl Allow {
    pub(crate) fn new(allow: &[String]) -> Self {
        Self(allow.to_vec())
    }

    /// Whether a method is open, by its name or by its group's.
    pub(crate) fn is_open(&self, method: &str) -> bool {
        let group = GROUPS.iter().find(|(_, methods)| methods.contains(&method));
        let is_it = |open: &str| open == method || group.is_some_and(|(group, _)| open == *group);
        self.0.iter().any(|open| is_it(open))
    }

    /// Judge one method by its full path.
    pub(crate) fn judge(&self, path: &str) -> Verdict {
        let method = path
            .strip_prefix("/inference.GRPCInferenceService/")
            .unwrap_or_default();
        let Some((group, _)) = GROUPS.iter().find(|(_, methods)| methods.contains(&method)) else {
            return Verdict::Closed(format!("the method {path} does not exist here"));
        };
        if self.is_open(method) {
            return Verdict::Open;
        }
        Verdict::Closed(format!(
            "{method} is not open to clients; add '{group}' or '{method}' to protocol.allow in the \
             gateway's configuration"
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOAD: &str = "/inference.GRPCInferenceService/RepositoryModelLoad";
    const LOG: &str = "/inference.GRPCInferenceService/LogSettings";

    #[test]
    fn a_closed_method_names_the_key_that_opens_it() {
        let Verdict::Closed(text) = Allow::new(&[]).judge(LOAD) else {
            panic!("it is open")
        };

        assert!(
            text.contains("'repository' or 'RepositoryModelLoad' to protocol.allow"),
            "{text}"
        );
    }

    #[test]
    fn a_group_or_a_name_opens_a_method_and_nothing_else() {
        for word in ["repository", "RepositoryModelLoad"] {
            let allow = Allow::new(&[word.to_owned()]);

            assert_eq!(Verdict::Open, allow.judge(LOAD));
            assert_ne!(Verdict::Open, allow.judge(LOG));
        }
    }

    #[test]
    fn a_method_that_does_not_exist_is_told_so() {
        let all: Vec<String> = GROUPS
            .iter()
            .map(|(group, _)| (*group).to_owned())
            .collect();

        for path in ["/x.Y/Z", "/inference.GRPCInferenceService/Nope", "/", ""] {
            assert!(
                matches!(Allow::new(&all).judge(path), Verdict::Closed(_)),
                "{path}"
            );
        }
    }
}
