//! Combines the watermarks of several channels (or of the splits of a source) into one, as a pure state machine.
//!
//! A channel is Active, Idle or Finished. Combined = the least of the active ones; with none active, the greatest of the
//! idle ones and then Idle; finished channels count for nothing, and when all are finished the caller ends the stream.
//! An active channel that has not said anything yet holds everything back.
//!
//! Guarantee: what is emitted never goes backwards, also across a restore.

use crate::engine::message::Watermark;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Channel {
    Active(Option<i64>),
    Idle(Option<i64>),
    Finished,
}

#[derive(Debug)]
pub struct WatermarkMerge {
    channels: Vec<Channel>,
    /// The greatest emitted so far.
    last: Option<i64>,
    idle: bool,
}

/// What to tell downstream: first the time, then that the channel went idle.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Advance {
    pub at: Option<i64>,
    pub idle: bool,
}

impl Advance {
    pub fn watermarks(self) -> impl Iterator<Item = Watermark> {
        let idle = self.idle.then_some(Watermark::Idle);
        self.at.map(Watermark::At).into_iter().chain(idle)
    }
}

impl WatermarkMerge {
    /// `restored`: what was emitted before the restart; nothing earlier is emitted again.
    pub fn new(channels: usize, restored: Option<i64>) -> WatermarkMerge {
        WatermarkMerge {
            channels: vec![Channel::Active(None); channels],
            last: restored,
            idle: false,
        }
    }

    /// One more channel, active and silent so far; gives its number.
    pub fn add_channel(&mut self) -> usize {
        self.channels.push(Channel::Active(None));
        self.channels.len() - 1
    }

    pub fn channels(&self) -> usize {
        self.channels.len()
    }

    /// The combined watermark as last emitted.
    pub fn current(&self) -> Option<i64> {
        self.last
    }

    /// What `channel` said last; `None` when nothing yet or finished.
    pub fn of_channel(&self, channel: usize) -> Option<i64> {
        match self.channels[channel] {
            Channel::Active(at) | Channel::Idle(at) => at,
            Channel::Finished => None,
        }
    }

    pub fn is_finished(&self, channel: usize) -> bool {
        self.channels[channel] == Channel::Finished
    }

    pub fn is_idle(&self, channel: usize) -> bool {
        matches!(self.channels[channel], Channel::Idle(_))
    }

    /// The active channel that holds the combined watermark back: one that has said nothing yet, else the one that is least far.
    pub fn held_back_by(&self) -> Option<usize> {
        let active = |(channel, state): (usize, &Channel)| match state {
            Channel::Active(at) => Some((*at, channel)),
            Channel::Idle(_) | Channel::Finished => None,
        };
        let least = self.channels.iter().enumerate().filter_map(active).min();
        least.map(|(_, channel)| channel)
    }

    pub fn all_finished(&self) -> bool {
        self.channels.iter().all(|channel| *channel == Channel::Finished)
    }

    /// `channel` said `watermark`. Saying a time makes an idle (or, for a split that grew again, a finished) channel active.
    pub fn update(&mut self, channel: usize, watermark: Watermark) -> Advance {
        let known = self.of_channel(channel);
        self.channels[channel] = match watermark {
            Watermark::At(at) => Channel::Active(Some(known.map_or(at, |known| known.max(at)))),
            Watermark::Idle if self.is_finished(channel) => Channel::Finished,
            Watermark::Idle => Channel::Idle(known),
        };
        self.derive()
    }

    /// The wall clock is the watermark, whatever the channels have said: without an active one nothing holds it back.
    pub fn follow_clock(&mut self, at: i64) -> Advance {
        let mut advance = Advance::default();
        for channel in 0..self.channels.len() {
            if !self.is_finished(channel) {
                let next = self.update(channel, Watermark::At(at));
                advance.at = next.at.or(advance.at);
            }
        }
        if self.all_finished() {
            let was_idle = std::mem::replace(&mut self.idle, false);
            return self.emit(Some(at), was_idle, false);
        }
        advance
    }

    /// `channel` has ended.
    pub fn finish(&mut self, channel: usize) -> Advance {
        self.channels[channel] = Channel::Finished;
        self.derive()
    }

    fn derive(&mut self) -> Advance {
        let mut active = false;
        let mut silent = false;
        let mut idle = false;
        let mut least: Option<i64> = None;
        let mut greatest_idle: Option<i64> = None;
        for channel in &self.channels {
            match channel {
                Channel::Active(Some(at)) => {
                    active = true;
                    least = Some(least.map_or(*at, |least| least.min(*at)));
                }
                Channel::Active(None) => {
                    active = true;
                    silent = true;
                }
                Channel::Idle(at) => {
                    idle = true;
                    greatest_idle = greatest_idle.max(*at);
                }
                Channel::Finished => {}
            }
        }
        if active {
            let combined = if silent { None } else { least };
            let was_idle = std::mem::replace(&mut self.idle, false);
            return self.emit(combined, was_idle, false);
        }
        if idle {
            let went_idle = !std::mem::replace(&mut self.idle, true);
            return self.emit(greatest_idle, false, went_idle);
        }
        Advance::default()
    }

    /// `repeat`: say the time again although it did not advance, because downstream believes the channel idle.
    fn emit(&mut self, combined: Option<i64>, repeat: bool, idle: bool) -> Advance {
        let before = self.last;
        self.last = before.max(combined);
        Advance {
            at: self.last.filter(|_| self.last != before || repeat),
            idle,
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn at(at: i64) -> Advance {
        Advance {
            at: Some(at),
            idle: false,
        }
    }

    const NOTHING: Advance = Advance { at: None, idle: false };
    const IDLE: Advance = Advance { at: None, idle: true };

    #[test]
    fn the_least_active_channel_decides_and_a_silent_one_holds_back() {
        let mut merge = WatermarkMerge::new(2, None);
        assert_eq!(merge.update(0, Watermark::At(10)), NOTHING);
        assert_eq!(merge.update(1, Watermark::At(5)), at(5));
        assert_eq!(merge.update(1, Watermark::At(20)), at(10));
        assert_eq!(
            merge.update(0, Watermark::At(8)),
            NOTHING,
            "a channel does not go backwards"
        );
        assert_eq!(merge.update(0, Watermark::At(30)), at(20));
    }

    #[test]
    fn idle_channels_do_not_hold_back_and_come_back() {
        let mut merge = WatermarkMerge::new(2, None);
        merge.update(0, Watermark::At(10));
        assert_eq!(merge.update(1, Watermark::Idle), at(10));
        assert_eq!(merge.update(0, Watermark::At(40)), at(40));
        // Channel 1 is active again, far behind: nothing goes backwards, and it holds back from now on.
        assert_eq!(merge.update(1, Watermark::At(15)), NOTHING);
        assert_eq!(merge.update(0, Watermark::At(60)), NOTHING);
        assert_eq!(merge.update(1, Watermark::At(50)), at(50));
    }

    #[test]
    fn with_none_active_the_greatest_then_idle() {
        let mut merge = WatermarkMerge::new(2, None);
        merge.update(0, Watermark::At(10));
        merge.update(1, Watermark::At(30));
        assert_eq!(merge.update(0, Watermark::Idle), at(30));
        assert_eq!(merge.update(1, Watermark::Idle), IDLE);
        assert_eq!(merge.update(0, Watermark::Idle), NOTHING, "idle is said once");
        // Awake again without progress: downstream must hear that the stream is active.
        assert_eq!(merge.update(0, Watermark::At(20)), at(30));
    }

    #[test]
    fn greatest_of_idle_is_released_when_the_last_active_goes_idle() {
        let mut merge = WatermarkMerge::new(2, None);
        merge.update(0, Watermark::At(50));
        merge.update(1, Watermark::At(10));
        merge.update(0, Watermark::Idle);
        assert_eq!(merge.current(), Some(10));
        assert_eq!(
            merge.update(1, Watermark::Idle),
            Advance {
                at: Some(50),
                idle: true
            }
        );
    }

    #[test]
    fn a_silent_channel_holds_back_then_the_least_far_and_never_an_idle_one() {
        let mut merge = WatermarkMerge::new(3, None);
        merge.update(0, Watermark::At(10));
        assert_eq!(merge.held_back_by(), Some(1));
        merge.update(1, Watermark::At(30));
        merge.update(2, Watermark::At(20));
        assert_eq!(merge.held_back_by(), Some(0));
        merge.update(0, Watermark::Idle);
        assert_eq!(merge.held_back_by(), Some(2));
        merge.finish(2);
        assert_eq!(merge.held_back_by(), Some(1));
        merge.update(1, Watermark::Idle);
        assert_eq!(merge.held_back_by(), None);
    }

    #[test]
    fn finished_channels_are_excluded() {
        let mut merge = WatermarkMerge::new(3, None);
        merge.update(0, Watermark::At(10));
        merge.update(1, Watermark::At(20));
        assert_eq!(
            merge.finish(2),
            at(10),
            "a channel that ended without a word no longer holds back"
        );
        assert_eq!(merge.finish(0), at(20));
        assert_eq!(
            merge.finish(1),
            NOTHING,
            "the end is the caller's to tell, never a watermark at the end of time"
        );
        assert!(merge.all_finished());
    }

    #[test]
    fn idle_and_finished_together() {
        let mut merge = WatermarkMerge::new(2, None);
        merge.update(0, Watermark::At(10));
        merge.update(0, Watermark::Idle);
        assert_eq!(
            merge.finish(1),
            Advance {
                at: Some(10),
                idle: true
            }
        );
        assert!(!merge.all_finished());
    }

    #[test]
    fn a_restored_watermark_is_never_undercut() {
        let mut merge = WatermarkMerge::new(1, Some(100));
        assert_eq!(merge.update(0, Watermark::At(50)), NOTHING);
        assert_eq!(merge.update(0, Watermark::At(101)), at(101));
    }

    #[derive(Clone, Debug)]
    enum Event {
        At(usize, i64),
        Idle(usize),
        Finish(usize),
    }

    fn events() -> impl Strategy<Value = Vec<Event>> {
        let event = prop_oneof![
            6 => (0usize..4, 0i64..100).prop_map(|(c, t)| Event::At(c, t)),
            2 => (0usize..4).prop_map(Event::Idle),
            1 => (0usize..4).prop_map(Event::Finish),
        ];
        proptest::collection::vec(event, 0..60)
    }

    proptest! {
        /// Against the definition evaluated over the whole history, with finished channels staying silent.
        #[test]
        fn agrees_with_the_definition(events in events()) {
            let mut merge = WatermarkMerge::new(4, None);
            let mut greatest = [None::<i64>; 4];
            let mut status = ['a'; 4];
            let mut emitted = None::<i64>;
            for event in events {
                let advance = match event {
                    Event::At(c, _) | Event::Idle(c) if status[c] == 'f' => { let _ = c; continue }
                    Event::At(c, t) => {
                        greatest[c] = greatest[c].max(Some(t));
                        status[c] = 'a';
                        merge.update(c, Watermark::At(t))
                    }
                    Event::Idle(c) => { status[c] = 'i'; merge.update(c, Watermark::Idle) }
                    Event::Finish(c) => { status[c] = 'f'; merge.finish(c) }
                };
                let of = |wanted: char| (0..4).filter(|c| status[*c] == wanted).map(|c| greatest[c]).collect::<Vec<_>>();
                let active = of('a');
                let combined = if active.is_empty() {
                    of('i').into_iter().max().flatten()
                } else if active.contains(&None) {
                    None
                } else {
                    active.into_iter().min().flatten()
                };
                if let Some(at) = advance.at {
                    prop_assert!(Some(at) >= emitted, "went backwards");
                    emitted = Some(at);
                }
                prop_assert_eq!(merge.current(), emitted);
                prop_assert!(emitted >= combined, "holds back more than it should");
                if advance.idle {
                    prop_assert!(of('a').is_empty() && !of('i').is_empty());
                }
            }
        }
    }
}
