//! Names near one that was not found.

/// Tables beyond this many models are not searched: a wrong name must not cost more than a right one
/// by more than some microseconds.
pub(crate) const SEARCHED: usize = 512;

/// Names beyond this length are not compared.
const COMPARED: usize = 64;

/// Most names that are told.
const TOLD: usize = 3;

/// Most edits between two names that are near.
const EDITS: usize = 2;

/// At most three of `names` that are like `name`: one begins with the other, or few edits apart.
///
/// The caller bounds the number of names; each comparison takes at most 64 x 64 steps.
pub(crate) fn nearest<'n>(name: &str, names: impl Iterator<Item = &'n str>) -> Vec<&'n str> {
    if name.len() > COMPARED {
        return Vec::new();
    }
    let mut near: Vec<(usize, &str)> = names
        .filter(|other| other.len() <= COMPARED)
        .filter_map(|other| Some((distance(name, other)?, other)))
        .collect();
    near.sort_unstable();
    near.truncate(TOLD);
    near.into_iter().map(|(_, other)| other).collect()
}

fn distance(name: &str, other: &str) -> Option<usize> {
    let shorter = name.len().min(other.len());
    let apart = name.len().abs_diff(other.len());
    if apart <= EDITS {
        let edits = edits(&name.to_ascii_lowercase(), &other.to_ascii_lowercase());
        if edits <= EDITS.min(shorter / 2) {
            return Some(edits);
        }
    }
    let begins = shorter >= 3 && name.as_bytes()[..shorter] == other.as_bytes()[..shorter];
    begins.then_some(EDITS + apart)
}

/// Levenshtein's distance, over bytes: names are ASCII.
fn edits(a: &str, b: &str) -> usize {
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.bytes().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, y) in b.bytes().enumerate() {
            let replaced = diagonal + usize::from(x != y);
            diagonal = row[j + 1];
            row[j + 1] = replaced.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn near(name: &str) -> Vec<&'static str> {
        nearest(
            name,
            ["digits", "digits-large", "diabetes", "fraud", "a"].into_iter(),
        )
    }

    #[test]
    fn a_slip_of_the_finger_is_near() {
        assert_eq!(vec!["digits", "digits-large"], near("digit"));
        assert_eq!(vec!["digits"], near("Digist"));
        assert_eq!(vec!["fraud"], near("freud"));
    }

    #[test]
    fn a_beginning_is_near() {
        assert_eq!(vec!["diabetes"], near("diab"));
        assert_eq!(vec!["digits", "digits-large"], near("digits-"));
    }

    #[test]
    fn other_names_are_not_near() {
        assert!(near("resnet50").is_empty());
        assert!(near("b").is_empty());
    }

    #[test]
    fn long_names_are_not_compared() {
        assert!(nearest(&"a".repeat(65), ["a"].into_iter()).is_empty());
    }
}
