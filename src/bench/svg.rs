//! A timeline as a picture: throughput above, latency on a logarithmic scale below.

use std::fmt::{self, Display, Write as _};

use super::timeline::{Point, Timeline};

const WIDTH: f64 = 960.0;
const HEIGHT: f64 = 620.0;
const LEFT: f64 = 78.0;
const RIGHT: f64 = 930.0;

/// Where the panels are.
const THROUGHPUT: Panel = Panel { top: 92.0, bottom: 300.0 };
const LATENCY: Panel = Panel { top: 350.0, bottom: 560.0 };

const BLUE: &str = "#1f6feb";
const GREEN: &str = "#1a7f37";
const ORANGE: &str = "#bc4c00";
const RED: &str = "#cf222e";

const STYLE: &str = "\
text { font: 12px system-ui, sans-serif; fill: #1f2328 } \
.title { font-size: 17px; font-weight: 600 } \
.quiet { fill: #59636e } \
.grid { stroke: #d1d9e0; stroke-width: 1 } \
.line { fill: none; stroke-width: 1.6; stroke-linejoin: round } \
.happened { fill: #8250df; paint-order: stroke; stroke: #ffffff; stroke-width: 4px } \
.mark { stroke: #8250df; stroke-width: 1.2; stroke-dasharray: 4 3 }";

#[derive(Clone, Copy)]
struct Panel {
    top: f64,
    bottom: f64,
}

impl Panel {
    /// The height of a share of the panel, from its bottom.
    fn y(&self, share: f64) -> f64 {
        self.bottom - share * (self.bottom - self.top)
    }
}

/// One line of a panel.
struct Series<'a> {
    name: &'a str,
    colour: &'a str,
    /// Where each point is, as a share of the panel; `None` interrupts the line.
    shares: Vec<Option<f64>>,
}

/// The picture of `timeline` as an SVG document.
pub(crate) fn render(timeline: &Timeline, title: &str, subtitle: &str) -> String {
    let mut svg = String::new();
    write_picture(&mut svg, timeline, title, subtitle).expect("a String takes everything");
    svg
}

fn write_picture(
    svg: &mut String,
    timeline: &Timeline,
    title: &str,
    subtitle: &str,
) -> fmt::Result {
    writeln!(
        svg,
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {HEIGHT}\" \
         width=\"{WIDTH}\" height=\"{HEIGHT}\" role=\"img\">\n\
         <title>{}</title>\n<style>{STYLE}</style>\n\
         <rect width=\"{WIDTH}\" height=\"{HEIGHT}\" fill=\"#ffffff\"/>",
        Escaped(title),
    )?;
    write_text(svg, (LEFT, 30.0), "start", "title", title)?;
    write_text(svg, (LEFT, 50.0), "start", "quiet", subtitle)?;
    let time = TimeAxis::new(timeline);
    write_throughput(svg, timeline, &time)?;
    write_latency(svg, timeline, &time)?;
    write_marks(svg, timeline, &time)?;
    write_text(svg, ((LEFT + RIGHT) / 2.0, LATENCY.bottom + 40.0), "middle", "", "time (s)")?;
    writeln!(svg, "</svg>")
}

/// Seconds from left to right.
struct TimeAxis {
    interval_s: f64,
    end_s: f64,
}

impl TimeAxis {
    fn new(timeline: &Timeline) -> TimeAxis {
        let interval_s = timeline.interval_ns() as f64 / 1e9;
        let last_mark = timeline.marks().last().map_or(0.0, |mark| mark.at_ns as f64 / 1e9);
        let end_s = (interval_s * timeline.points().len().max(1) as f64).max(last_mark);
        TimeAxis { interval_s, end_s }
    }

    fn x(&self, seconds: f64) -> f64 {
        LEFT + seconds / self.end_s * (RIGHT - LEFT)
    }

    /// The middle of an interval.
    fn x_of(&self, index: usize) -> f64 {
        self.x((index as f64 + 0.5) * self.interval_s)
    }

    fn write(&self, svg: &mut String, panel: Panel, has_labels: bool) -> fmt::Result {
        let step = round_step(self.end_s / 10.0);
        let mut tick = 0.0;
        while tick <= self.end_s * 1.0001 {
            let x = self.x(tick);
            write_grid(svg, (x, panel.top), (x, panel.bottom))?;
            if has_labels {
                let label = short(tick);
                write_text(svg, (x, panel.bottom + 18.0), "middle", "quiet", &label)?;
            }
            tick += step;
        }
        Ok(())
    }
}

fn write_throughput(svg: &mut String, timeline: &Timeline, time: &TimeAxis) -> fmt::Result {
    let panel = THROUGHPUT;
    let rate = |count: u64| timeline.per_second(count);
    let counts = |point: &Point| [point.reads, point.writes];
    let highest = timeline.points().iter().flat_map(counts).max().unwrap_or(0);
    let step = round_step(rate(highest).max(1.0) / 4.0);
    let top = (rate(highest).max(1.0) / step).ceil() * step;
    time.write(svg, panel, false)?;
    let mut tick = 0.0;
    while tick <= top * 1.0001 {
        write_level(svg, panel.y(tick / top), &short(tick))?;
        tick += step;
    }
    write_axis_title(svg, panel, "requests per second")?;
    let series = |name, colour, count: fn(&Point) -> u64| Series {
        name,
        colour,
        shares: timeline.points().iter().map(|point| Some(rate(count(point)) / top)).collect(),
    };
    let all =
        [series("reads", BLUE, |point| point.reads), series("writes", GREEN, |point| point.writes)];
    let is_seen = |series: &&Series<'_>| series.shares.iter().any(|share| *share > Some(0.0));
    write_series(svg, panel, time, &all.iter().filter(is_seen).collect::<Vec<_>>())?;
    write_failures(svg, timeline, time)
}

/// A dot for every interval in which something failed: too few, mostly, to be seen as a rate.
fn write_failures(svg: &mut String, timeline: &Timeline, time: &TimeAxis) -> fmt::Result {
    let dot = |svg: &mut String, x: f64, y: f64| {
        writeln!(svg, "<circle cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"3.5\" fill=\"{RED}\"/>")
    };
    let points = timeline.points().iter().enumerate();
    let mut failures = points.filter(|(_, point)| point.errors > 0).peekable();
    if failures.peek().is_some() {
        dot(svg, LEFT + 6.0, THROUGHPUT.top - 14.0)?;
        let words = "some requests failed";
        write_text(svg, (LEFT + 16.0, THROUGHPUT.top - 10.0), "start", "", words)?;
    }
    failures.try_for_each(|(index, _)| dot(svg, time.x_of(index), THROUGHPUT.bottom))
}

fn write_latency(svg: &mut String, timeline: &Timeline, time: &TimeAxis) -> fmt::Result {
    let panel = LATENCY;
    let points = timeline.points();
    let of = |get: fn(&Point) -> u64| points.iter().map(get).filter(|ns| *ns > 0);
    let lowest = of(|point| point.p50_ns).min().unwrap_or(1_000);
    let highest = of(|point| point.max_ns).max().unwrap_or(1_000_000);
    // Whole powers of ten, at least one.
    let low = (lowest as f64).log10().floor();
    let high = (highest as f64).log10().ceil().max(low + 1.0);
    let share = |ns: u64| (ns > 0).then(|| ((ns as f64).log10() - low) / (high - low));
    time.write(svg, panel, true)?;
    let mut power = low;
    while power <= high {
        write_level(svg, panel.y((power - low) / (high - low)), &duration(10_f64.powf(power)))?;
        power += 1.0;
    }
    write_axis_title(svg, panel, "latency (logarithmic)")?;
    let series = |name, colour, get: fn(&Point) -> u64| Series {
        name,
        colour,
        shares: points.iter().map(|point| share(get(point))).collect(),
    };
    let all = [
        series("p50", BLUE, |point| point.p50_ns),
        series("p99", ORANGE, |point| point.p99_ns),
        series("max", RED, |point| point.max_ns),
    ];
    write_series(svg, panel, time, &all.iter().collect::<Vec<_>>())
}

/// The lines of a panel, and above its right end what they are.
fn write_series(
    svg: &mut String,
    panel: Panel,
    time: &TimeAxis,
    all: &[&Series<'_>],
) -> fmt::Result {
    for series in all {
        let mut path = String::new();
        let mut pen = 'M';
        for (index, share) in series.shares.iter().enumerate() {
            let Some(share) = share else {
                pen = 'M';
                continue;
            };
            write!(path, "{pen}{:.1} {:.1}", time.x_of(index), panel.y(*share))?;
            // A single point between two gaps is a dot.
            path.push_str(if pen == 'M' { "h0.1" } else { "" });
            pen = 'L';
        }
        let colour = series.colour;
        writeln!(svg, "<path class=\"line\" stroke=\"{colour}\" d=\"{path}\"/>")?;
    }
    let mut x = RIGHT - 70.0 * all.len() as f64;
    let y = panel.top - 10.0;
    for Series { name, colour, .. } in all {
        let (end, middle) = (x + 16.0, y - 4.0);
        writeln!(
            svg,
            "<path class=\"line\" stroke=\"{colour}\" \
             d=\"M{x:.1} {middle:.1}L{end:.1} {middle:.1}\"/>"
        )?;
        write_text(svg, (x + 22.0, y), "start", "", name)?;
        x += 70.0;
    }
    Ok(())
}

/// What happened, across both panels. The words take turns in height, so that neighbours can be
/// read.
fn write_marks(svg: &mut String, timeline: &Timeline, time: &TimeAxis) -> fmt::Result {
    for (number, mark) in timeline.marks().iter().enumerate() {
        let x = time.x(mark.at_ns as f64 / 1e9);
        for panel in [THROUGHPUT, LATENCY] {
            writeln!(
                svg,
                "<path class=\"mark\" d=\"M{x:.1} {}L{x:.1} {}\"/>",
                panel.top, panel.bottom
            )?;
        }
        let (anchor, beside) =
            if x > (LEFT + RIGHT) / 2.0 { ("end", -5.0) } else { ("start", 5.0) };
        let y = THROUGHPUT.top + 14.0 + 15.0 * (number % 4) as f64;
        write_text(svg, (x + beside, y), anchor, "happened", &mark.words)?;
    }
    Ok(())
}

fn write_grid(svg: &mut String, from: (f64, f64), to: (f64, f64)) -> fmt::Result {
    let ((x1, y1), (x2, y2)) = (from, to);
    writeln!(svg, "<path class=\"grid\" d=\"M{x1:.1} {y1:.1}L{x2:.1} {y2:.1}\"/>")
}

/// A line across a panel, with its value at the left.
fn write_level(svg: &mut String, y: f64, label: &str) -> fmt::Result {
    write_grid(svg, (LEFT, y), (RIGHT, y))?;
    write_text(svg, (LEFT - 8.0, y + 4.0), "end", "quiet", label)
}

fn write_axis_title(svg: &mut String, panel: Panel, title: &str) -> fmt::Result {
    let y = (panel.top + panel.bottom) / 2.0;
    writeln!(
        svg,
        "<text x=\"18\" y=\"{y:.1}\" text-anchor=\"middle\" transform=\"rotate(-90 18 {y:.1})\">\
         {title}</text>"
    )
}

fn write_text(
    svg: &mut String,
    (x, y): (f64, f64),
    anchor: &str,
    class: &str,
    text: &str,
) -> fmt::Result {
    let text = Escaped(text);
    writeln!(
        svg,
        "<text x=\"{x:.1}\" y=\"{y:.1}\" text-anchor=\"{anchor}\" class=\"{class}\">{text}</text>"
    )
}

/// 1, 2 or 5 times a power of ten, and not less than `least`.
fn round_step(least: f64) -> f64 {
    let power = 10_f64.powf(least.log10().floor());
    let factor = [1.0, 2.0, 5.0, 10.0].into_iter().find(|factor| factor * power >= least * 0.9999);
    factor.unwrap_or(10.0) * power
}

/// A number in few characters: `250`, `2.5k`, `40k`, `1.2M`.
fn short(number: f64) -> String {
    let (scaled, unit) = match number {
        _ if number >= 1e6 => (number / 1e6, "M"),
        _ if number >= 1e3 => (number / 1e3, "k"),
        _ => (number, ""),
    };
    let digits = format!("{scaled:.2}");
    format!("{}{unit}", digits.trim_end_matches('0').trim_end_matches('.'))
}

fn duration(ns: f64) -> String {
    match ns {
        _ if ns >= 1e9 => format!("{} s", short(ns / 1e9)),
        _ if ns >= 1e6 => format!("{} ms", short(ns / 1e6)),
        _ if ns >= 1e3 => format!("{} \u{b5}s", short(ns / 1e3)),
        _ => format!("{} ns", short(ns)),
    }
}

/// Text as XML has it; control characters, which XML has not, become spaces.
struct Escaped<'a>(&'a str);

impl Display for Escaped<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.chars().try_for_each(|character| match character {
            '&' => f.write_str("&amp;"),
            '<' => f.write_str("&lt;"),
            '>' => f.write_str("&gt;"),
            '"' => f.write_str("&quot;"),
            character if character.is_control() => f.write_char(' '),
            character => f.write_char(character),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn timeline() -> Timeline {
        let mut timeline = Timeline::new(0, 100_000_000);
        for at in 0..10_u64 {
            let now_ns = at * 100_000_000 + 1;
            if (4..6).contains(&at) {
                timeline.failed(now_ns);
            } else {
                timeline.answered(now_ns, true, 90, 200_000);
                timeline.answered(now_ns, false, 10, 900_000 * (at + 1));
            }
        }
        timeline.mark(450_000_000, "leader <b> & \"co\"".to_owned());
        timeline.finish(1_000_000_000);
        timeline
    }

    /// Every element is closed in its order, and no text holds what XML takes for markup.
    fn check_xml(svg: &str) {
        let mut open = Vec::new();
        for piece in svg.split('<').skip(1) {
            let (tag, text) = piece.split_once('>').expect("a tag has its end");
            assert!(!text.contains('>'), "{text}");
            assert!(text.split('&').skip(1).all(|entity| entity.contains(';')), "{text}");
            assert_eq!(tag.matches('"').count() % 2, 0, "{tag}");
            if let Some(name) = tag.strip_prefix('/') {
                assert_eq!(open.pop(), Some(name));
            } else if !tag.ends_with('/') {
                open.push(tag.split_whitespace().next().expect("a name"));
            }
        }
        assert!(open.is_empty(), "{open:?}");
    }

    #[test]
    fn the_picture_is_xml_and_shows_everything() {
        let svg = render(&timeline(), "a < b", "50 connections");
        check_xml(&svg);
        for words in [
            "a &lt; b",
            "50 connections",
            "leader &lt;b&gt; &amp; &quot;co&quot;",
            "requests per second",
            "latency (logarithmic)",
            "time (s)",
            ">reads<",
            ">writes<",
            "some requests failed",
            ">p99<",
        ] {
            assert!(svg.contains(words), "no {words} in {svg}");
        }
        assert!(!svg.contains("NaN") && !svg.contains("inf"), "{svg}");
    }

    #[test]
    fn nothing_measured_is_a_picture_too() {
        let svg = render(&Timeline::new(0, 1_000_000), "nothing", "");
        check_xml(&svg);
        assert!(!svg.contains("NaN") && !svg.contains("inf"), "{svg}");
    }

    #[test]
    fn ticks_are_round_and_numbers_are_short() {
        for (least, step) in [(0.9, 1.0), (1.0, 1.0), (1.1, 2.0), (230.0, 500.0), (0.03, 0.05)] {
            assert!((round_step(least) - step).abs() < 1e-9, "{least}");
        }
        for (number, text) in [(0.0, "0"), (0.25, "0.25"), (2500.0, "2.5k"), (1_200_000.0, "1.2M")]
        {
            assert_eq!(short(number), text);
        }
        assert_eq!((duration(1e4), duration(1e9)), ("10 \u{b5}s".to_owned(), "1 s".to_owned()));
    }
}
