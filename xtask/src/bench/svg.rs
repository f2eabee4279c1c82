//! A plot as SVG: lines of points over two logarithmic axes, of which that below begins at zero;
//! readable on dark and on light.

use std::fmt::Write as _;

/// The page, and what the axes leave of it for the points.
const WIDTH: f64 = 760.0;
const HEIGHT: f64 = 470.0;
const LEFT: f64 = 74.0;
const RIGHT: f64 = 24.0;
const TOP: f64 = 92.0;
const BOTTOM: f64 = 92.0;

/// What tells the lines apart: a colour of middling lightness, which shows on white and on black,
/// and for who does not see colours the dashes and the shape of the points.
const STYLES: [(&str, &str, Shape); 4] = [
    ("#8b949e", "2 4", Shape::None),
    ("#2f81f7", "none", Shape::Circle),
    ("#d9730d", "8 4", Shape::Square),
    ("#a371f7", "3 3", Shape::Diamond),
];

/// Text and axes follow the reader's choice, as the page around the plot does.
const STYLE: &str = "\
  .back { fill: #ffffff; } .ink { fill: #1f2328; } .dim { fill: #59636e; }
  .axis { stroke: #59636e; } .grid { stroke: #d1d9e0; }
  @media (prefers-color-scheme: dark) {
    .back { fill: #0d1117; } .ink { fill: #f0f6fc; } .dim { fill: #9198a1; }
    .axis { stroke: #9198a1; } .grid { stroke: #2f353d; }
  }
";

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Shape {
    None,
    Circle,
    Square,
    Diamond,
}

/// A line of the plot.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Line {
    pub(super) name: String,
    /// (x, y) by ascending x, which is not negative; y is above zero.
    pub(super) points: Vec<(f64, f64)>,
}

/// What is drawn.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Plot {
    pub(super) title: String,
    pub(super) x: String,
    pub(super) y: String,
    /// Below the plot, and a line above it where there is something to note.
    pub(super) caption: String,
    pub(super) note: Option<String>,
    /// Marks of the x axis.
    pub(super) ticks: Vec<f64>,
    pub(super) lines: Vec<Line>,
}

/// Both axes, from values to places on the page.
struct Scale {
    /// Up to where x is drawn evenly: zero has no logarithm.
    even: f64,
    most: f64,
    y: (f64, f64),
}

impl Plot {
    /// The file. The same plot gives the same bytes.
    pub(super) fn svg(&self) -> String {
        let scale = Scale::of(self);
        let mut out = String::new();
        let _ = writeln!(
            out,
            "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {HEIGHT}\" \
             font-family=\"system-ui, sans-serif\" font-size=\"13\" role=\"img\">"
        );
        let _ = writeln!(out, "<title>{}</title>\n<style>\n{STYLE}</style>", escape(&self.title));
        let _ =
            writeln!(out, "<rect class=\"back\" width=\"{WIDTH}\" height=\"{HEIGHT}\" rx=\"6\"/>");
        text(
            &mut out,
            (LEFT, 28.0),
            "ink",
            "start",
            " font-size=\"16\" font-weight=\"600\"",
            &self.title,
        );
        self.axes(&mut out, &scale);
        for (line, style) in self.lines.iter().zip(STYLES.iter().cycle()) {
            draw(&mut out, line, *style, &scale);
        }
        self.legend(&mut out);
        let small = " font-size=\"11.5\"";
        if let Some(note) = &self.note {
            text(&mut out, (LEFT, HEIGHT - 28.0), "dim", "start", small, note);
        }
        text(&mut out, (LEFT, HEIGHT - 12.0), "dim", "start", small, &self.caption);
        out.push_str("</svg>\n");
        out
    }

    fn axes(&self, out: &mut String, scale: &Scale) {
        let (bottom, right) = (HEIGHT - BOTTOM, WIDTH - RIGHT);
        for mark in marks(scale.y) {
            let at = scale.place_y(mark);
            let _ = writeln!(
                out,
                "<path class=\"grid\" d=\"M{LEFT} {at:.1}H{right}\" stroke-width=\"1\"/>"
            );
            text(out, (LEFT - 8.0, at + 4.5), "dim", "end", "", &format!("{mark}×"));
        }
        for &tick in &self.ticks {
            let at = scale.place_x(tick);
            let _ = writeln!(
                out,
                "<path class=\"axis\" d=\"M{at:.1} {bottom}v5\" stroke-width=\"1\"/>"
            );
            text(out, (at, bottom + 20.0), "dim", "middle", "", &format!("{tick}"));
        }
        let _ = writeln!(
            out,
            "<path class=\"axis\" d=\"M{LEFT} {TOP}V{bottom}H{right}\" fill=\"none\" stroke-width=\"1\"/>"
        );
        let middle = f64::midpoint(LEFT, right);
        text(out, (middle, bottom + 42.0), "ink", "middle", "", &self.x);
        let (x, y) = (22.0, f64::midpoint(TOP, bottom));
        text(out, (x, y), "ink", "middle", &format!(" transform=\"rotate(-90 {x} {y})\""), &self.y);
    }

    fn legend(&self, out: &mut String) {
        let mut at = LEFT;
        for (line, (colour, dashes, shape)) in self.lines.iter().zip(STYLES.iter().cycle()) {
            let y = 56.0;
            let _ = writeln!(
                out,
                "<path d=\"M{at:.1} {y}h26\" stroke=\"{colour}\" stroke-width=\"2.5\" \
                 stroke-dasharray=\"{dashes}\"/>"
            );
            point(out, (at + 13.0, y), *shape, colour);
            text(out, (at + 33.0, y + 4.5), "ink", "start", "", &line.name);
            // Wide enough for the widest letters of the fonts this may be drawn with.
            at += 33.0 + 7.4 * line.name.chars().count() as f64 + 22.0;
        }
    }
}

impl Scale {
    fn of(plot: &Plot) -> Self {
        let points = || plot.lines.iter().flat_map(|line| &line.points);
        let span = |values: &mut dyn Iterator<Item = f64>| {
            values
                .filter(|value| value.is_finite() && *value > 0.0)
                .fold((f64::INFINITY, 0.0_f64), |(least, most), value| {
                    (least.min(value), most.max(value))
                })
        };
        let (even, most) = span(&mut points().map(|(x, _)| *x).chain(plot.ticks.iter().copied()));
        let (low, high) = span(&mut points().map(|(_, y)| *y));
        // One is what all is compared with: always seen.
        Self { even, most, y: (low.min(1.0) / 1.1, high.max(1.0) * 1.15) }
    }

    fn place_x(&self, x: f64) -> f64 {
        let room = WIDTH - LEFT - RIGHT;
        let share = (x / self.even).ln_1p() / (self.most / self.even).ln_1p();
        // Room for the points and marks themselves.
        LEFT + 0.02 * room + 0.96 * room * bounded(share)
    }

    fn place_y(&self, y: f64) -> f64 {
        let (low, high) = self.y;
        HEIGHT - BOTTOM - (HEIGHT - TOP - BOTTOM) * bounded((y / low).ln() / (high / low).ln())
    }
}

fn bounded(share: f64) -> f64 {
    if share.is_finite() { share.clamp(0.0, 1.0) } else { 0.0 }
}

/// Round numbers between two bounds: 1, 2, 5, 10, 20, …
fn marks((least, most): (f64, f64)) -> Vec<f64> {
    let mut marks = Vec::new();
    for power in -3..6 {
        for digit in [1.0, 2.0, 5.0] {
            // Not `powi`, whose last digits differ between machines.
            let mark: f64 = format!("{digit}e{power}").parse().unwrap_or(f64::NAN);
            if mark >= least && mark <= most {
                marks.push(mark);
            }
        }
    }
    marks
}

fn draw(
    out: &mut String,
    line: &Line,
    (colour, dashes, shape): (&str, &str, Shape),
    scale: &Scale,
) {
    let places: Vec<(f64, f64)> = line
        .points
        .iter()
        .filter(|(x, y)| x.is_finite() && y.is_finite())
        .map(|(x, y)| (scale.place_x(*x), scale.place_y(*y)))
        .collect();
    let path: Vec<String> = places.iter().map(|(x, y)| format!("{x:.1},{y:.1}")).collect();
    let _ = writeln!(
        out,
        "<polyline points=\"{}\" fill=\"none\" stroke=\"{colour}\" stroke-width=\"2.5\" \
         stroke-dasharray=\"{dashes}\"/>",
        path.join(" ")
    );
    for place in &places {
        point(out, *place, shape, colour);
    }
}

fn point(out: &mut String, (x, y): (f64, f64), shape: Shape, colour: &str) {
    let _ = match shape {
        Shape::None => Ok(()),
        Shape::Circle => {
            writeln!(out, "<circle cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"4\" fill=\"{colour}\"/>")
        }
        Shape::Square => {
            writeln!(out, "<path d=\"M{:.1} {:.1}h8v8h-8z\" fill=\"{colour}\"/>", x - 4.0, y - 4.0)
        }
        Shape::Diamond => {
            writeln!(out, "<path d=\"M{x:.1} {:.1}l5 5l-5 5l-5 -5z\" fill=\"{colour}\"/>", y - 5.0)
        }
    };
}

fn text(out: &mut String, (x, y): (f64, f64), class: &str, anchor: &str, more: &str, said: &str) {
    let _ = writeln!(
        out,
        "<text class=\"{class}\" x=\"{x:.1}\" y=\"{y:.1}\" text-anchor=\"{anchor}\"{more}>{}</text>",
        escape(said)
    );
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plot() -> Plot {
        let line = |name: &str, points: &[(f64, f64)]| Line {
            name: name.to_owned(),
            points: points.to_vec(),
        };
        Plot {
            title: "Cost of <a query> & \"more\"".to_owned(),
            x: "functions".to_owned(),
            y: "times none".to_owned(),
            caption: "A machine.".to_owned(),
            note: Some("one ends <here>".to_owned()),
            ticks: vec![0.0, 10.0, 100.0, 1000.0],
            lines: vec![
                line("none", &[(0.0, 1.0), (1000.0, 1.0)]),
                line("much", &[(0.0, 1.0), (10.0, 0.9), (100.0, f64::NAN), (1000.0, 250.0)]),
                line("stops", &[(0.0, 1.0), (10.0, 2.0)]),
            ],
        }
    }

    /// The elements of a text that is well-formed, each as its name and attributes; a panic if it
    /// is not.
    fn elements(xml: &str) -> Vec<(String, Vec<(String, String)>)> {
        let (mut open, mut found, mut rest) = (Vec::new(), Vec::new(), xml);
        while let Some(at) = rest.find('<') {
            let said = &rest[..at];
            assert!(!said.contains('>'), "{said}");
            for entity in said.split('&').skip(1) {
                assert!(["amp;", "lt;", "gt;", "quot;"].iter().any(|e| entity.starts_with(e)));
            }
            let end = rest.find('>').expect("an element is closed");
            let tag = &rest[at + 1..end];
            rest = &rest[end + 1..];
            if let Some(name) = tag.strip_prefix('/') {
                assert_eq!(open.pop().as_deref(), Some(name));
                continue;
            }
            let (tag, alone) = tag.strip_suffix('/').map_or((tag, false), |tag| (tag, true));
            let (name, mut words) = tag.split_once(' ').unwrap_or((tag, ""));
            let mut attributes = Vec::new();
            while let Some((key, after)) = words.split_once("=\"") {
                let (value, after) = after.split_once('"').expect("a value is closed");
                attributes.push((key.trim().to_owned(), value.to_owned()));
                words = after;
            }
            assert!(words.trim().is_empty(), "{words}");
            if !alone {
                open.push(name.to_owned());
            }
            found.push((name.to_owned(), attributes));
        }
        assert!(open.is_empty() && rest.trim().is_empty(), "{open:?}");
        found
    }

    #[test]
    fn it_is_well_formed_and_the_same_again() {
        let svg = plot().svg();
        let elements = elements(&svg);
        assert_eq!(elements[0].0, "svg");
        assert_eq!(elements.iter().filter(|(name, _)| name == "polyline").count(), 3);
        assert!(svg.contains("Cost of &lt;a query&gt; &amp; &quot;more&quot;"));
        assert!(svg.contains("ends &lt;here&gt;") && svg.contains("A machine."));
        assert!(!svg.contains("NaN") && !svg.contains("inf"));
        assert_eq!(svg, plot().svg());
    }

    #[test]
    fn all_points_are_inside_the_box() {
        let svg = plot().svg();
        let mut points = 0;
        for (_, attributes) in elements(&svg).iter().filter(|(name, _)| name == "polyline") {
            let (_, list) = attributes.iter().find(|(key, _)| key == "points").unwrap();
            for pair in list.split(' ') {
                let (x, y) = pair.split_once(',').unwrap();
                let (x, y): (f64, f64) = (x.parse().unwrap(), y.parse().unwrap());
                assert!((LEFT..=WIDTH - RIGHT).contains(&x), "{pair}");
                assert!((TOP..=HEIGHT - BOTTOM).contains(&y), "{pair}");
                points += 1;
            }
        }
        // What is no number is left out.
        assert_eq!(points, 7);
    }

    #[test]
    fn more_is_further_and_zero_has_its_place() {
        let scale = Scale::of(&plot());
        let places = [0.0, 10.0, 100.0, 1000.0].map(|x| scale.place_x(x));
        assert!(places.is_sorted() && places[1] - places[0] > 40.0);
        assert!(scale.place_y(2.0) < scale.place_y(1.0));
    }

    #[test]
    fn marks_are_round_numbers() {
        assert_eq!(marks((0.9, 12.0)), [1.0, 2.0, 5.0, 10.0]);
        assert_eq!(marks((f64::NAN, 2.0)), [0.0; 0]);
    }
}
