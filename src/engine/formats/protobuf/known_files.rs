//! Files that schemas import without bringing them along: those that schema registries have built in, `google/type` and `confluent`.
//!
//! They are described by their fields alone, which is all that reading and writing needs. Files of `google/protobuf` come with
//! the compiler. A file beside the schema, or in `protobuf.include`, goes before these.
//!
//! Sources: <https://github.com/googleapis/googleapis/tree/master/google/type> and Confluent's "Protobuf schema serializer and deserializer".

use protox::file::{File, FileResolver};

pub const DATE: &str = "google/type/date.proto";
pub const TIME_OF_DAY: &str = "google/type/timeofday.proto";
pub const DECIMAL: &str = "confluent/type/decimal.proto";
/// Notes on files, messages and fields.
pub const META: &str = "confluent/meta.proto";

struct Known {
    file: &'static str,
    imports: &'static [&'static str],
    body: &'static str,
}

const KNOWN: &[Known] = &[
    Known {
        file: META,
        imports: &["google/protobuf/descriptor.proto"],
        body: "message Meta { string doc = 1; map<string, string> params = 2; repeated string tags = 3; repeated Rule rules = 4; }
            message Rule { string name = 1; string doc = 2; string expr = 3; string sql = 4; }
            extend google.protobuf.FileOptions { Meta file_meta = 1088; }
            extend google.protobuf.MessageOptions { Meta message_meta = 1088; }
            extend google.protobuf.FieldOptions { Meta field_meta = 1088; }
            extend google.protobuf.EnumOptions { Meta enum_meta = 1088; }
            extend google.protobuf.EnumValueOptions { Meta enum_value_meta = 1088; }",
    },
    Known {
        file: DECIMAL,
        imports: &[],
        body: "message Decimal { bytes value = 1; uint32 precision = 2; int32 scale = 3; }",
    },
    Known {
        file: "confluent/type/variant.proto",
        imports: &[],
        body: "message Variant { bytes metadata = 1; bytes value = 2; }",
    },
    Known {
        file: "google/type/calendar_period.proto",
        imports: &[],
        body: "enum CalendarPeriod { CALENDAR_PERIOD_UNSPECIFIED = 0; DAY = 1; WEEK = 2; FORTNIGHT = 3; MONTH = 4; QUARTER = 5;
            HALF = 6; YEAR = 7; }",
    },
    Known {
        file: "google/type/color.proto",
        imports: &["google/protobuf/wrappers.proto"],
        body: "message Color { float red = 1; float green = 2; float blue = 3; google.protobuf.FloatValue alpha = 4; }",
    },
    Known {
        file: DATE,
        imports: &[],
        body: "message Date { int32 year = 1; int32 month = 2; int32 day = 3; }",
    },
    Known {
        file: "google/type/datetime.proto",
        imports: &["google/protobuf/duration.proto"],
        body: "message DateTime { int32 year = 1; int32 month = 2; int32 day = 3; int32 hours = 4; int32 minutes = 5;
            int32 seconds = 6; int32 nanos = 7; oneof time_offset { google.protobuf.Duration utc_offset = 8; TimeZone time_zone = 9; } }
            message TimeZone { string id = 1; string version = 2; }",
    },
    Known {
        file: "google/type/dayofweek.proto",
        imports: &[],
        body: "enum DayOfWeek { DAY_OF_WEEK_UNSPECIFIED = 0; MONDAY = 1; TUESDAY = 2; WEDNESDAY = 3; THURSDAY = 4; FRIDAY = 5;
            SATURDAY = 6; SUNDAY = 7; }",
    },
    Known {
        file: "google/type/decimal.proto",
        imports: &[],
        body: "message Decimal { string value = 1; }",
    },
    Known {
        file: "google/type/expr.proto",
        imports: &[],
        body: "message Expr { string expression = 1; string title = 2; string description = 3; string location = 4; }",
    },
    Known {
        file: "google/type/fraction.proto",
        imports: &[],
        body: "message Fraction { int64 numerator = 1; int64 denominator = 2; }",
    },
    Known {
        file: "google/type/interval.proto",
        imports: &["google/protobuf/timestamp.proto"],
        body: "message Interval { google.protobuf.Timestamp start_time = 1; google.protobuf.Timestamp end_time = 2; }",
    },
    Known {
        file: "google/type/latlng.proto",
        imports: &[],
        body: "message LatLng { double latitude = 1; double longitude = 2; }",
    },
    Known {
        file: "google/type/localized_text.proto",
        imports: &[],
        body: "message LocalizedText { string text = 1; string language_code = 2; }",
    },
    Known {
        file: "google/type/money.proto",
        imports: &[],
        body: "message Money { string currency_code = 1; int64 units = 2; int32 nanos = 3; }",
    },
    Known {
        file: "google/type/month.proto",
        imports: &[],
        body: "enum Month { MONTH_UNSPECIFIED = 0; JANUARY = 1; FEBRUARY = 2; MARCH = 3; APRIL = 4; MAY = 5; JUNE = 6; JULY = 7;
            AUGUST = 8; SEPTEMBER = 9; OCTOBER = 10; NOVEMBER = 11; DECEMBER = 12; }",
    },
    Known {
        file: "google/type/phone_number.proto",
        imports: &[],
        body: "message PhoneNumber { message ShortCode { string region_code = 1; string number = 2; }
            oneof kind { string e164_number = 1; ShortCode short_code = 2; } string extension = 3; }",
    },
    Known {
        file: "google/type/postal_address.proto",
        imports: &[],
        body: "message PostalAddress { int32 revision = 1; string region_code = 2; string language_code = 3; string postal_code = 4;
            string sorting_code = 5; string administrative_area = 6; string locality = 7; string sublocality = 8;
            repeated string address_lines = 9; repeated string recipients = 10; string organization = 11; }",
    },
    Known {
        file: "google/type/quaternion.proto",
        imports: &[],
        body: "message Quaternion { double x = 1; double y = 2; double z = 3; double w = 4; }",
    },
    Known {
        file: TIME_OF_DAY,
        imports: &[],
        body: "message TimeOfDay { int32 hours = 1; int32 minutes = 2; int32 seconds = 3; int32 nanos = 4; }",
    },
];

/// Whether schemas may import this file without bringing it along.
pub fn is_known(file: &str) -> bool {
    file.starts_with("google/protobuf/") || KNOWN.iter().any(|known| known.file == file)
}

/// Whether messages of this package are those of known files.
pub fn is_known_package(package: &str) -> bool {
    package == "google.protobuf" || KNOWN.iter().any(|known| known.package() == package)
}

pub struct KnownFiles;

impl FileResolver for KnownFiles {
    fn open_file(&self, name: &str) -> Result<File, protox::Error> {
        let known = KNOWN.iter().find(|known| known.file == name);
        let known = known.ok_or_else(|| protox::Error::file_not_found(name))?;
        File::from_source(name, &known.text())
    }
}

impl Known {
    /// That of all files in its folder.
    fn package(&self) -> String {
        let folder = self.file.rsplit_once('/').map_or("", |(folder, _)| folder);
        folder.replace('/', ".")
    }

    fn text(&self) -> String {
        let imports: String = self
            .imports
            .iter()
            .map(|import| format!("import \"{import}\";\n"))
            .collect();
        let package = self.package();
        format!("syntax = \"proto3\";\npackage {package};\n{imports}{}\n", self.body)
    }
}

#[cfg(test)]
pub fn names() -> Vec<&'static str> {
    KNOWN.iter().map(|known| known.file).collect()
}
