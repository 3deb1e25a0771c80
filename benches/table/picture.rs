//! Curves as SVG: panels that share their axes, a line for each peer, in colours for light and for dark pages.

use std::fmt::Write;

const WIDTH: f64 = 760.0;
const LEFT: f64 = 40.0;
const TITLE: f64 = 46.0;
/// Above a panel, for its name, and below it, for the figures at its axis.
const HEAD: f64 = 22.0;
const FOOT: f64 = 18.0;
const GAP: f64 = 24.0;
/// The names of the axes.
const BOTTOM: f64 = 26.0;
/// Points closer than this to the one before are left out.
const NEAR: f64 = 0.6;

/// The peers that have a colour, and their dashes, for those who do not see colours.
const LINES: [(&str, &str); 5] = [
    ("bowline", "none"),
    ("ssh", "6 2"),
    ("quicssh-rs", "2 2"),
    ("mosh", "9 2 2 2"),
    ("autossh", "4 4"),
];
const STYLE: &str = "
text { font: 12px sans-serif; fill: #1f2328; } .title { font-size: 14px; font-weight: bold; }
.end { text-anchor: end; } .middle { text-anchor: middle; }
.page { fill: #fff; } .shade { fill: #ffebe9; } .grid { stroke: #d1d9e0; fill: none; }
.line { fill: none; stroke-width: 2; stroke-linejoin: round; }
.bowline { stroke: #0969da; } .ssh { stroke: #bc4c00; } .quicssh-rs { stroke: #8250df; } .mosh { stroke: #1a7f37; }
.autossh { stroke: #59636e; }
@media (prefers-color-scheme: dark) {
  text { fill: #f0f6fc; } .page { fill: #0d1117; } .shade { fill: #3c1618; } .grid { stroke: #3d444d; }
  .bowline { stroke: #58a6ff; } .ssh { stroke: #f0883e; } .quicssh-rs { stroke: #bc8cff; } .mosh { stroke: #3fb950; }
  .autossh { stroke: #9198a1; }
}
";

pub(crate) struct Picture {
    pub(crate) title: String,
    pub(crate) x: Axis,
    pub(crate) y: Axis,
    pub(crate) panels: Vec<Panel>,
    pub(crate) columns: usize,
    pub(crate) panel_height: f64,
}

pub(crate) struct Axis {
    pub(crate) name: &'static str,
    /// What is as far from one figure to the next all along the axis; grows with them.
    pub(crate) scale: fn(f64) -> f64,
    /// What lies outside is drawn at the edge.
    pub(crate) range: (f64, f64),
    pub(crate) ticks: Vec<(f64, String)>,
}

impl Axis {
    /// How far along the axis, from 0 to 1.
    fn place(&self, figure: f64) -> f64 {
        let (from, to) = self.range;
        let [figure, from, to] = [figure.clamp(from, to), from, to].map(self.scale);
        (figure - from) / (to - from)
    }
}

pub(crate) struct Panel {
    pub(crate) title: String,
    pub(crate) lines: Vec<Line>,
    /// From where to where along x.
    pub(crate) shaded: Option<(f64, f64)>,
}

pub(crate) struct Line {
    pub(crate) peer: &'static str,
    /// A step at each.
    pub(crate) points: Vec<(f64, f64)>,
}

/// Where a panel stands.
struct Frame<'a> {
    picture: &'a Picture,
    left: f64,
    top: f64,
    width: f64,
}

impl Picture {
    pub(crate) fn svg(&self) -> String {
        let rows = self.panels.len().div_ceil(self.columns) as f64;
        let row_height = HEAD + self.panel_height + FOOT;
        let height = TITLE + rows * row_height + BOTTOM;
        let mut svg = format!(
            "<svg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 {WIDTH} {height}' width='{WIDTH}' height='{height}'>\n\
             <style>{STYLE}</style>\n<rect class='page' width='{WIDTH}' height='{height}'/>\n"
        );
        text(&mut svg, "title", (LEFT, 18.0), &self.title);
        self.legend(&mut svg);
        let columns = self.columns as f64;
        let width = (WIDTH - LEFT - GAP) / columns - GAP * (columns - 1.0) / columns;
        for (at, panel) in self.panels.iter().enumerate() {
            let (row, column) = ((at / self.columns) as f64, (at % self.columns) as f64);
            let frame = Frame {
                picture: self,
                left: LEFT + column * (width + GAP),
                top: TITLE + row * row_height + HEAD,
                width,
            };
            frame.draw(&mut svg, panel);
        }
        let below = height - BOTTOM / 2.0 + 4.0;
        text(&mut svg, "end", (WIDTH - GAP, below), &format!("→ {}", self.x.name));
        text(&mut svg, "", (LEFT, below), &format!("↑ {}", self.y.name));
        svg + "</svg>\n"
    }

    /// Names the lines, where a panel has several.
    fn legend(&self, svg: &mut String) {
        if self.panels.iter().all(|panel| panel.lines.len() < 2) {
            return;
        }
        let drawn = |name| {
            self.panels
                .iter()
                .flat_map(|panel| &panel.lines)
                .any(|line| line.peer == name)
        };
        for (at, (name, _)) in LINES.iter().filter(|(name, _)| drawn(*name)).enumerate() {
            let left = LEFT + 120.0 * at as f64;
            line(svg, name, &format!("M{left} 36h28"));
            text(svg, "", (left + 34.0, 40.0), name);
        }
    }
}

impl Frame<'_> {
    fn x(&self, figure: f64) -> f64 {
        self.left + self.width * self.picture.x.place(figure)
    }

    fn y(&self, figure: f64) -> f64 {
        self.top + self.picture.panel_height * (1.0 - self.picture.y.place(figure))
    }

    fn draw(&self, svg: &mut String, panel: &Panel) {
        let bottom = self.top + self.picture.panel_height;
        if let Some((from, to)) = panel.shaded {
            let (left, width, height) = (self.x(from), self.x(to) - self.x(from), self.picture.panel_height);
            let top = self.top;
            put(
                svg,
                format_args!("<rect class='shade' x='{left:.1}' y='{top}' width='{width:.1}' height='{height}'/>"),
            );
        }
        for (figure, name) in &self.picture.x.ticks {
            let x = self.x(*figure);
            put(
                svg,
                format_args!("<path class='grid' d='M{x:.1} {bottom}V{}'/>", self.top),
            );
            text(svg, "middle", (x, bottom + 14.0), name);
        }
        for (figure, name) in &self.picture.y.ticks {
            let y = self.y(*figure);
            put(
                svg,
                format_args!("<path class='grid' d='M{} {y:.1}h{}'/>", self.left, self.width),
            );
            text(svg, "end", (self.left - 6.0, y + 4.0), name);
        }
        text(svg, "", (self.left, self.top - 7.0), &panel.title);
        for drawn in &panel.lines {
            line(svg, drawn.peer, &self.steps(&drawn.points));
        }
    }

    fn steps(&self, points: &[(f64, f64)]) -> String {
        let mut path = String::new();
        let mut last: Option<(f64, f64)> = None;
        for (x, y) in points.iter().map(|(x, y)| (self.x(*x), self.y(*y))) {
            match last {
                None => write!(path, "M{x:.1} {y:.1}"),
                Some((left, below)) if (x - left).abs() < NEAR && (y - below).abs() < NEAR => continue,
                Some(_) => write!(path, "H{x:.1}V{y:.1}"),
            }
            .expect("a String");
            last = Some((x, y));
        }
        path
    }
}

fn line(svg: &mut String, peer: &str, path: &str) {
    let dashes = LINES
        .iter()
        .find(|(name, _)| *name == peer)
        .map_or("none", |(_, dashes)| dashes);
    put(
        svg,
        format_args!("<path class='line {peer}' stroke-dasharray='{dashes}' d='{path}'/>"),
    );
}

fn text(svg: &mut String, class: &str, (x, y): (f64, f64), words: &str) {
    put(
        svg,
        format_args!("<text class='{class}' x='{x:.1}' y='{y:.1}'>{words}</text>"),
    );
}

fn put(svg: &mut String, element: std::fmt::Arguments) {
    writeln!(svg, "{element}").expect("a String");
}
