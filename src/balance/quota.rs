//! How many partitions are ours to have.

/// With N partitions and M live owners, `share = N div M` and `extras = N mod M`: everybody owns `share`, and `extras`
/// of them one more. Nobody gives up an extra partition and nobody steals to get one unless somebody has two more than
/// `share`, so a balanced group stays as it is, whichever SDKs it is made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Quota {
    pub(super) share: usize,
    target: usize,
    mine: usize,
}

impl Quota {
    pub(super) fn new(
        partitions: usize,
        mine: usize,
        others: impl ExactSizeIterator<Item = usize>,
    ) -> Self {
        let members = others.len() + 1;
        let (share, extras) = (partitions / members, partitions % members);
        let others_with_extra = others.filter(|&held| held > share).count();
        let has_extra = extras > 0 && (mine > share || others_with_extra < extras);
        Self {
            share,
            target: share + usize::from(has_extra),
            mine,
        }
    }

    /// How many more we are to have.
    pub(super) fn missing(&self) -> usize {
        self.target.saturating_sub(self.mine)
    }

    /// How many partitions an owner keeps in any case when we take the next one after `taken`: only a step that makes
    /// the loads more even is worth a move.
    pub(super) fn spared(&self, taken: usize) -> usize {
        if self.mine + taken < self.share {
            self.share
        } else {
            self.share + 1
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn missing(partitions: usize, mine: usize, others: &[usize]) -> usize {
        Quota::new(partitions, mine, others.iter().copied()).missing()
    }

    #[test]
    fn everybody_gets_the_share_and_some_one_more() {
        assert_eq!(missing(32, 0, &[]), 32);
        assert_eq!(missing(32, 0, &[32]), 16);
        assert_eq!(
            missing(13, 0, &[13]),
            6,
            "the extra is somebody else's already"
        );
        assert_eq!(missing(13, 0, &[6, 6]), 4);
        assert_eq!(missing(14, 4, &[5, 4]), 1);
        assert_eq!(missing(13, 4, &[4, 5]), 0);
        assert_eq!(missing(13, 5, &[4, 4]), 0, "an extra is kept");
        assert_eq!(missing(2, 0, &[1, 1]), 0, "more processors than partitions");
        assert_eq!(missing(0, 0, &[]), 0);
    }

    #[test]
    fn a_step_that_makes_nothing_more_even_is_not_worth_a_move() {
        let quota = Quota::new(13, 2, [7, 4].into_iter());
        assert_eq!(quota.spared(0), 4, "below the share");
        assert_eq!(quota.spared(1), 4);
        assert_eq!(
            quota.spared(2),
            5,
            "for an extra, somebody must have two more"
        );
    }
}
