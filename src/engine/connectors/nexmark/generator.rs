//! What event number n is: a pure function of the number and the seed.
//!
//! The numbers are those of the benchmark's specification (proportions, hot keys, lifetimes, sizes), so that queries do the
//! work they do elsewhere. Every field draws from a random number of its own, made from seed, event number and field;
//! fields that nobody reads are not computed. One difference is intended: a bid's `bidder` is a person's id, so that joins
//! find their partners.
//!
//! Long texts are cut from a pool of random letters: their contents mean nothing to any query, only their length does.

use std::sync::OnceLock;

pub const EVENTS_A_BLOCK: u64 = 50;
pub const PEOPLE_A_BLOCK: u64 = 1;
pub const AUCTIONS_A_BLOCK: u64 = 3;

const FIRST_PERSON_ID: u64 = 1000;
const FIRST_AUCTION_ID: u64 = 1000;
const FIRST_CATEGORY_ID: u64 = 10;
const CATEGORIES: u64 = 5;

/// Bids go to one of the last this many auctions.
const AUCTIONS_IN_FLIGHT: u64 = 100;
/// Sellers and bidders are among the last this many people.
const PEOPLE_ACTIVE: u64 = 1000;
/// Events may name this many people or auctions that do not exist yet.
const LEAD: u64 = 10;
/// One in this many people or auctions is hot for as long as it is the newest such.
const HOT_EVERY: u64 = 100;
const CHANNELS: u64 = 10_000;
const HOT_CHANNELS: [&str; 4] = ["Google", "Facebook", "Baidu", "Apple"];

const FIRST_NAMES: [&str; 11] = [
    "Ada", "Bela", "Chen", "Dara", "Emil", "Fatou", "Goran", "Hana", "Ines", "Jonas", "Kofi",
];
const LAST_NAMES: [&str; 9] = [
    "Almeida", "Berg", "Costa", "Diallo", "Eriksen", "Farkas", "Gupta", "Haddad", "Ito",
];
/// A city and the state it lies in; the states are those that queries ask for.
const CITIES: [(&str, &str); 10] = [
    ("Phoenix", "AZ"),
    ("Los Angeles", "CA"),
    ("San Francisco", "CA"),
    ("Boise", "ID"),
    ("Portland", "OR"),
    ("Bend", "OR"),
    ("Redmond", "WA"),
    ("Seattle", "WA"),
    ("Kent", "WA"),
    ("Cheyenne", "WY"),
];

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Person,
    Auction,
    Bid,
}

impl Kind {
    pub fn of(event: u64) -> Kind {
        match event % EVENTS_A_BLOCK {
            0..PEOPLE_A_BLOCK => Kind::Person,
            PEOPLE_A_BLOCK..4 => Kind::Auction,
            _ => Kind::Bid,
        }
    }

    /// As in the column `event_type`.
    pub fn number(self) -> i32 {
        match self {
            Kind::Person => 0,
            Kind::Auction => 1,
            Kind::Bid => 2,
        }
    }
}

/// What the fields draw their random numbers for.
#[derive(Clone, Copy)]
enum Draw {
    Auction = 1,
    Bidder,
    Price,
    Channel,
    Url,
    Extra,
    Seller,
    Category,
    Expires,
    InitialBid,
    Reserve,
    ItemName,
    Description,
    Name,
    Email,
    CreditCard,
    City,
}

#[derive(Clone, Debug)]
pub struct Generator {
    seed: u64,
    base_micros: i64,
    /// Event time between two events.
    micros_an_event: f64,
}

/// Scrambles all bits (the finaliser of SplitMix64).
#[inline(always)]
fn mix(value: u64) -> u64 {
    let value = (value ^ (value >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    let value = (value ^ (value >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    value ^ (value >> 31)
}

/// `random` scaled to `0..limit`; uses the high bits, the low ones stay for a second draw.
#[inline(always)]
fn below(random: u64, limit: u64) -> u64 {
    ((u128::from(random) * u128::from(limit)) >> 64) as u64
}

impl Generator {
    /// `events_a_second` of event time.
    pub fn new(seed: u64, base_micros: i64, events_a_second: f64) -> Generator {
        Generator {
            seed: mix(seed ^ 0x9E37_79B9_7F4A_7C15),
            base_micros,
            micros_an_event: 1e6 / events_a_second,
        }
    }

    #[inline(always)]
    fn draw(&self, event: u64, draw: Draw) -> u64 {
        mix(self.seed ^ event.wrapping_mul(0x9E37_79B9_7F4A_7C15) ^ ((draw as u64) << 56))
    }

    /// When the event happened, in microseconds since 1970-01-01 UTC.
    #[inline(always)]
    pub fn time(&self, event: u64) -> i64 {
        self.base_micros + (event as f64 * self.micros_an_event) as i64
    }

    pub fn person_id(&self, event: u64) -> i64 {
        (newest_person(event) + FIRST_PERSON_ID) as i64
    }

    pub fn auction_id(&self, event: u64) -> i64 {
        (newest_auction(event) + FIRST_AUCTION_ID) as i64
    }

    /// Half of the bids go to the hot auction.
    #[inline(always)]
    pub fn bid_auction(&self, event: u64) -> i64 {
        let random = self.draw(event, Draw::Auction);
        let newest = newest_auction(event);
        let auction = if random & 1 == 0 {
            newest / HOT_EVERY * HOT_EVERY
        } else {
            let oldest = newest.saturating_sub(AUCTIONS_IN_FLIGHT);
            oldest + below(random, newest - oldest + 1 + LEAD)
        };
        (auction + FIRST_AUCTION_ID) as i64
    }

    /// Three of four bids come from the hot bidder.
    #[inline(always)]
    pub fn bid_bidder(&self, event: u64) -> i64 {
        let random = self.draw(event, Draw::Bidder);
        let person = if random & 3 != 0 {
            newest_person(event) / HOT_EVERY * HOT_EVERY + 1
        } else {
            some_person(event, random)
        };
        (person + FIRST_PERSON_ID) as i64
    }

    pub fn auction_seller(&self, event: u64) -> i64 {
        let random = self.draw(event, Draw::Seller);
        let person = if random & 3 != 0 {
            newest_person(event) / HOT_EVERY * HOT_EVERY
        } else {
            some_person(event, random)
        };
        (person + FIRST_PERSON_ID) as i64
    }

    #[inline(always)]
    pub fn bid_price(&self, event: u64) -> i64 {
        price(self.draw(event, Draw::Price))
    }

    pub fn auction_initial_bid(&self, event: u64) -> i64 {
        price(self.draw(event, Draw::InitialBid))
    }

    pub fn auction_reserve(&self, event: u64) -> i64 {
        self.auction_initial_bid(event) + price(self.draw(event, Draw::Reserve))
    }

    pub fn auction_category(&self, event: u64) -> i64 {
        (FIRST_CATEGORY_ID + below(self.draw(event, Draw::Category), CATEGORIES)) as i64
    }

    /// An auction lives up to twice as long as it takes to make the auctions in flight.
    pub fn auction_expires(&self, event: u64) -> i64 {
        let events = AUCTIONS_IN_FLIGHT * EVENTS_A_BLOCK / AUCTIONS_A_BLOCK;
        let horizon_millis = ((events as f64 * self.micros_an_event) as u64 / 1000 * 2).max(1);
        let millis = 1 + below(self.draw(event, Draw::Expires), horizon_millis);
        self.time(event) + millis as i64 * 1000
    }

    /// Half of the bids come over one of four channels, the others over one of 10,000.
    fn channel_number(&self, event: u64) -> Result<usize, u64> {
        let random = self.draw(event, Draw::Channel);
        if random & 1 == 0 {
            Ok((random >> 1) as usize & 3)
        } else {
            Err(below(random, CHANNELS))
        }
    }

    pub fn bid_channel(&self, event: u64, out: &mut Vec<u8>) {
        match self.channel_number(event) {
            Ok(hot) => out.extend_from_slice(HOT_CHANNELS[hot].as_bytes()),
            Err(number) => {
                out.extend_from_slice(b"channel-");
                push_number(number, out);
            }
        }
    }

    /// The url is a function of the channel; nine of ten channels that are not hot have their id in it.
    pub fn bid_url(&self, event: u64, out: &mut Vec<u8>) {
        let channel = self.channel_number(event);
        let random = mix(match channel {
            Ok(hot) => hot as u64,
            Err(number) => number + 0x1_0000,
        } ^ ((Draw::Url as u64) << 56));
        out.extend_from_slice(b"https://www.nexmark.com/");
        for part in 0..3 {
            let random = random >> (part * 16);
            push_letters(random, 3 + (random & 1) as usize, out);
            out.push(b'/');
        }
        out.extend_from_slice(b"item.htm?query=1");
        if let Err(number) = channel
            && below(random, 10) > 0
        {
            out.extend_from_slice(b"&channel_id=");
            push_number(u64::from((number as u32).reverse_bits() & 0x7fff_ffff), out);
        }
    }

    /// Fills a record of about `record` bytes, of which `used` are taken, give or take a fifth.
    fn extra(&self, event: u64, used: u64, record: u64, out: &mut Vec<u8>) {
        let wanted = record.saturating_sub(used);
        let spread = wanted / 5;
        let random = self.draw(event, Draw::Extra);
        let length = wanted - spread + below(random, 2 * spread + 1);
        push_letters(random, length as usize, out);
    }

    pub fn bid_extra(&self, event: u64, out: &mut Vec<u8>) {
        self.extra(event, 32, 100, out);
    }

    pub fn auction_extra(&self, event: u64, out: &mut Vec<u8>) {
        self.extra(event, 8 * 8 + 120, 500, out);
    }

    pub fn person_extra(&self, event: u64, out: &mut Vec<u8>) {
        self.extra(event, 70, 200, out);
    }

    pub fn auction_item_name(&self, event: u64, out: &mut Vec<u8>) {
        let random = self.draw(event, Draw::ItemName);
        push_letters(random, 3 + (random % 18) as usize, out);
    }

    pub fn auction_description(&self, event: u64, out: &mut Vec<u8>) {
        let random = self.draw(event, Draw::Description);
        push_letters(random, 3 + (random % 98) as usize, out);
    }

    pub fn person_name(&self, event: u64, out: &mut Vec<u8>) {
        let random = self.draw(event, Draw::Name);
        out.extend_from_slice(FIRST_NAMES[below(random, 11) as usize].as_bytes());
        out.push(b' ');
        out.extend_from_slice(LAST_NAMES[(random % 9) as usize].as_bytes());
    }

    pub fn person_email(&self, event: u64, out: &mut Vec<u8>) {
        let random = self.draw(event, Draw::Email);
        push_letters(random, 7, out);
        out.push(b'@');
        push_letters(random.rotate_left(32), 5, out);
        out.extend_from_slice(b".com");
    }

    pub fn person_credit_card(&self, event: u64, out: &mut Vec<u8>) {
        let random = self.draw(event, Draw::CreditCard);
        for group in 0..4 {
            if group > 0 {
                out.push(b' ');
            }
            let number = (random >> (group * 16)) % 10_000;
            for power in [1000, 100, 10, 1] {
                out.push(b'0' + (number / power % 10) as u8);
            }
        }
    }

    fn city(&self, event: u64) -> (&'static str, &'static str) {
        CITIES[below(self.draw(event, Draw::City), CITIES.len() as u64) as usize]
    }

    pub fn person_city(&self, event: u64, out: &mut Vec<u8>) {
        out.extend_from_slice(self.city(event).0.as_bytes());
    }

    pub fn person_state(&self, event: u64, out: &mut Vec<u8>) {
        out.extend_from_slice(self.city(event).1.as_bytes());
    }
}

/// The number of the last person made up to this event.
#[inline(always)]
fn newest_person(event: u64) -> u64 {
    event / EVENTS_A_BLOCK
}

/// The number of the last auction made up to this event; 0 also before the first.
#[inline(always)]
fn newest_auction(event: u64) -> u64 {
    let (block, place) = (event / EVENTS_A_BLOCK, event % EVENTS_A_BLOCK);
    match place {
        0 => (block * AUCTIONS_A_BLOCK).saturating_sub(1),
        1..=3 => block * AUCTIONS_A_BLOCK + place - 1,
        _ => block * AUCTIONS_A_BLOCK + AUCTIONS_A_BLOCK - 1,
    }
}

#[inline(always)]
fn some_person(event: u64, random: u64) -> u64 {
    let people = newest_person(event) + 1;
    let active = people.min(PEOPLE_ACTIVE);
    people - active + below(random, active + LEAD)
}

/// Log-uniform from 100 to 100 million.
#[inline(always)]
fn price(random: u64) -> i64 {
    // 1/1024 steps of the logarithm, filled evenly between.
    let position = below(random, STEPS as u64 * 4096);
    let table = powers();
    let (step, part) = ((position / 4096) as usize, (position % 4096) as f64 / 4096.0);
    (table[step] + (table[step + 1] - table[step]) * part) as i64
}

const STEPS: usize = 6 * 1024;

fn powers() -> &'static [f64] {
    static POWERS: OnceLock<Vec<f64>> = OnceLock::new();
    POWERS.get_or_init(|| {
        (0..=STEPS)
            .map(|step| 100.0 * 10f64.powf(step as f64 / 1024.0))
            .collect()
    })
}

const POOL: usize = 1 << 16;
const LETTERS_MAX: usize = 1024;

/// Letters from anywhere in a pool of random ones.
#[inline(always)]
fn push_letters(random: u64, length: usize, out: &mut Vec<u8>) {
    let start = (random >> 7) as usize % POOL;
    out.extend_from_slice(&pool()[start..start + length.min(LETTERS_MAX)]);
}

fn pool() -> &'static [u8] {
    static LETTERS: OnceLock<Vec<u8>> = OnceLock::new();
    let letter = |index: usize| b'a' + below(mix(index as u64 + 1), 26) as u8;
    LETTERS.get_or_init(|| (0..POOL + LETTERS_MAX).map(letter).collect())
}

fn push_number(number: u64, out: &mut Vec<u8>) {
    out.extend_from_slice(itoa::Buffer::new().format(number).as_bytes());
}
