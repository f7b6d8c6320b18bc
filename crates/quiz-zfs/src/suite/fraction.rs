//! A fraction of the suite, such as `1/3`: the tags that `zfs-tests.sh` of OpenZFS 2.2.7 and later
//! selects for it. quiz computes them itself, so that this works with every checkout.

use std::collections::BTreeSet;
use std::str::FromStr;

use super::runfile::Group;

/// One of the equal parts of the run files.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Fraction {
    /// Which part, counted from 1.
    part: usize,
    /// How many parts there are.
    parts: usize,
}

impl FromStr for Fraction {
    type Err = ();

    fn from_str(text: &str) -> Result<Fraction, ()> {
        // `parse` alone would accept a sign.
        let number = |text: &str| {
            let digits = text.bytes().all(|byte| byte.is_ascii_digit());
            if digits { text.parse::<usize>().map_err(drop) } else { Err(()) }
        };
        let (part, parts) = text.split_once('/').ok_or(())?;
        let fraction = Fraction { part: number(part)?, parts: number(parts)? };
        if (1..=fraction.parts).contains(&fraction.part) { Ok(fraction) } else { Err(()) }
    }
}

impl Fraction {
    /// The tags in this part, as in `zfs-tests.sh`. Each group counts by its last tag, and the tags
    /// are sorted. Part 1 of 3 has every third tag, so that neighbours, which often are slow
    /// together, are in different parts.
    pub fn tags(self, groups: &[Group]) -> Vec<String> {
        let last = groups.iter().filter_map(|group| group.tags.last()).filter(|tag| !tag.contains("functional"));
        let sorted: BTreeSet<&String> = last.collect();
        let is_in_part = |(number, _): &(usize, &&String)| number % self.parts == self.part - 1;
        (1..).zip(&sorted).filter(is_in_part).map(|(_, tag)| (*tag).clone()).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::super::runfile;
    use super::*;

    #[test]
    fn only_a_part_of_a_whole_is_a_fraction() {
        assert_eq!("2/3".parse(), Ok(Fraction { part: 2, parts: 3 }));
        assert_eq!("1/1".parse(), Ok(Fraction { part: 1, parts: 1 }));
        for wrong in [
            "0/3",
            "4/3",
            "x/3",
            "1/x",
            "1/0",
            "0/0",
            "/3",
            "1/",
            "1/2/3",
            "+1/3",
            "1 /3",
            "-1/3",
            "99999999999999999999/3",
        ] {
            assert_eq!(wrong.parse::<Fraction>(), Err(()), "{wrong}");
        }
    }

    #[test]
    fn the_parts_are_those_of_the_launcher() {
        let group = |tags: &str| format!("[tests/functional/{}]\ntests = ['x']\ntags = [{tags}]\n", tags.len());
        let text: String = [
            "'functional', 'b'",
            "'functional', 'cli_root', 'a_1'",
            "'functional', 'ab'",
            "'functional'",
            "'functional', 'cli', 'd', 'e'",
            "'functional', 'x', 'b'",
            "'functional','B'",
        ]
        .map(group)
        .concat();
        let groups = runfile::parse(&text).unwrap();
        let part = |text: &str| text.parse::<Fraction>().unwrap().tags(&groups).join(" ");
        // The numbers are B 1, a_1 2, ab 3, b 4, e 5; part 1 has those divisible by the number of
        // parts.
        assert_eq!([part("1/3"), part("2/3"), part("3/3")], ["ab", "B b", "a_1 e"]);
        assert_eq!(part("1/1"), "B a_1 ab b e");
        assert_eq!(part("1/9"), "");
    }
}
