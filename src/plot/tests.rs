//! Figures are drawn, with their labels, in both formats.

use super::*;

fn histogram() -> Figure {
    let series = |name: &str, heights: &[f64]| HistogramSeries { name: name.into(), heights: heights.to_vec() };
    Figure::Histogram(Histogram {
        x: Axis::of("Jensen–Shannon divergence"),
        y: Axis::of("share of users"),
        edges: (0..=10).map(|n| f64::from(n) / 10.0).collect(),
        series: vec![
            series("similar interests", &[0.02, 0.05, 0.11, 0.2, 0.25, 0.17, 0.1, 0.06, 0.03, 0.01]),
            series("dissimilar interests", &[0.0, 0.01, 0.02, 0.04, 0.06, 0.1, 0.16, 0.22, 0.25, 0.14]),
        ],
    })
}

fn boxes() -> Figure {
    let summary = |low, lower_quartile, median, upper_quartile, high| BoxSummary {
        low,
        lower_quartile,
        median,
        upper_quartile,
        high,
    };
    let boxes = [
        ("without alignment", summary(-0.4, -0.05, 0.1, 0.22, 0.5)),
        ("with alignment", summary(0.1, 0.4, 0.6, 0.7, 0.95)),
    ];
    let boxes = boxes.map(|(name, summary)| (name.to_owned(), summary)).to_vec();
    Figure::Boxes(BoxPlot { x: "model".into(), y: Axis::of("cosine of query and clicked item"), boxes })
}

fn bars() -> Figure {
    let segment = |name: &str, heights: [f64; 2]| BarSegment { name: name.into(), heights: heights.to_vec() };
    Figure::Bars(Bars {
        x: "searches".into(),
        y: Axis::of("share of all searches in %"),
        bars: vec!["spontaneous".into(), "passive".into()],
        segments: vec![segment("similar", [44.0, 39.0]), segment("dissimilar", [13.0, 4.0])],
    })
}

fn lines() -> LineChart {
    let series = |name: &str, side, means: [f64; 5]| LineSeries {
        name: name.into(),
        side,
        points: means.iter().map(|&mean| Some(LinePoint { mean, deviation: 0.004 })).collect(),
    };
    LineChart {
        x: "weight α of the alignment loss".into(),
        ticks: ["0", "0.001", "0.01", "0.1", "1"].map(String::from).to_vec(),
        left: Axis::of("NDCG@10"),
        right: Some(Axis::of("MRR")),
        series: vec![
            series("NDCG@10", Side::Left, [0.381, 0.392, 0.401, 0.405, 0.389]),
            series("MRR", Side::Right, [0.331, 0.339, 0.346, 0.349, 0.336]),
        ],
    }
}

#[test]
fn every_figure_becomes_a_labelled_svg_and_a_png_that_differs_from_paper() {
    let dir = tempfile::tempdir().unwrap();
    let figures = [
        ("histogram", histogram(), &["Jensen–Shannon divergence", "share of users", "dissimilar interests"][..]),
        ("boxes", boxes(), &["cosine of query and clicked item", "with alignment", "−0.5"]),
        ("bars", bars(), &["share of all searches in %", "passive", "dissimilar"]),
        ("lines", Figure::Lines(lines()), &["weight α of the alignment loss", "NDCG@10", "MRR", "0.001"]),
    ];
    for (name, figure, labels) in figures {
        let [svg, png] = figure.write(dir.path(), name).unwrap();
        let svg = std::fs::read_to_string(svg).unwrap();
        assert!(svg.starts_with("<svg") && svg.trim_end().ends_with("</svg>"));
        labels.iter().for_each(|label| assert!(svg.contains(label), "{name}: no {label:?}"));
        let decoder = png::Decoder::new(std::io::BufReader::new(std::fs::File::open(png).unwrap()));
        let mut reader = decoder.read_info().unwrap();
        let mut pixels = vec![0; reader.output_buffer_size().unwrap()];
        let info = reader.next_frame(&mut pixels).unwrap();
        assert_eq!((info.width, info.height), (1050, 720));
        assert_eq!(pixels, figure.pixels().unwrap(), "{name}: drawn alike each time");
        let ink = pixels.iter().filter(|&&value| value < 128).count();
        assert!(ink > 10_000, "{name}: {ink} dark values");
    }
}

#[test]
fn text_is_drawn_without_a_font_of_the_system() {
    // The same chart with and without its labels differs where these stand: at the left edge, and below.
    let with = Figure::Lines(lines()).pixels().unwrap();
    let bare = LineChart { x: String::new(), left: Axis::of(""), ..lines() };
    let without = Figure::Lines(bare).pixels().unwrap();
    let dark = |pixels: &[u8], rows: std::ops::Range<usize>, columns: std::ops::Range<usize>| {
        rows.flat_map(|row| columns.clone().map(move |column| (row * 1050 + column) * 3))
            .filter(|&at| pixels[at] < 128)
            .count()
    };
    assert!(dark(&with, 660..720, 0..1050) > 300 && dark(&without, 660..720, 0..1050) == 0);
    assert!(dark(&with, 0..720, 0..60) > 300 && dark(&without, 0..720, 0..60) == 0);
}

#[test]
fn long_names_of_boxes_move_to_the_legend() {
    let Figure::Boxes(mut boxes) = boxes() else { unreachable!("boxes") };
    boxes.boxes[0].0 = "a model that was trained without any alignment".into();
    let svg = Figure::Boxes(boxes).svg().unwrap();
    assert!(svg.contains("1: a model that was trained without any alignment") && svg.contains("2: with alignment"));
}

/// Three rows of it, 48 pixels each, below a margin of 14.
#[test]
fn a_label_keeps_out_of_the_legend() {
    let Figure::Boxes(boxes) = boxes() else { unreachable!("boxes") };
    let summary = boxes.boxes[0].1;
    let named = (0..3).map(|n| (format!("a model that was trained in another way, number {n}"), summary)).collect();
    let boxes = BoxPlot { boxes: named, ..boxes };
    let legend = |label: &str| {
        let pixels = Figure::Boxes(BoxPlot { y: Axis::of(label), ..boxes.clone() }).pixels().unwrap();
        pixels[..(14 + 3 * 48) * 1050 * 3].to_vec()
    };
    let alone = legend("");
    assert!(alone.iter().any(|&value| value < 128));
    let label = "cosine of query and clicked item";
    for label in [label.to_owned(), [label; 4].join(" ")] {
        assert!(legend(&label) == alone, "{label}");
    }
}

#[test]
fn what_does_not_fit_is_cut_short_or_divided() {
    let Figure::Boxes(mut boxes) = boxes() else { unreachable!("boxes") };
    let name = "a model with a very long name, ".repeat(5);
    boxes.boxes[0].0 = name.clone();
    boxes.y = Axis::of("share of users who have searched before, in %");
    let svg = Figure::Boxes(boxes).svg().unwrap();
    assert!(svg.contains("1: a model with a very long name, a model") && svg.contains('…') && !svg.contains(&name));
    assert!(svg.contains("share of users who have") && svg.contains("searched before, in %"), "{svg}");
    assert!(!svg.contains("who have searched"), "{svg}");
}

#[test]
fn a_missing_point_interrupts_its_line_and_nonsense_is_refused() {
    let mut gap = lines();
    gap.series[0].points[2] = None;
    // The first series' lines by how many points they pass.
    let runs = |chart: &LineChart, points: usize| {
        let svg = Figure::Lines(chart.clone()).svg().unwrap();
        let lines = svg.lines().filter(|line| line.contains("<polyline") && line.contains("#0072B2"));
        let paths = lines.filter_map(|line| line.split("points=\"").nth(1)?.split('"').next().map(str::to_owned));
        paths.filter(|path| path.split_whitespace().count() == points).count()
    };
    assert_eq!((runs(&lines(), 5), runs(&gap, 5)), (1, 0));
    // Two halves more, an error bar of three strokes less.
    assert_eq!(runs(&gap, 2), runs(&lines(), 2) + 2 - 3);
    let refused = |figure: Figure| matches!(figure.svg(), Err(PlotError::Data(_)));
    assert!(refused(Figure::Lines(LineChart { right: None, ..lines() })));
    gap.series[0].points.pop();
    assert!(refused(Figure::Lines(gap)));
    let mut unknown = lines();
    unknown.series[1].points[0] = Some(LinePoint { mean: f64::NAN, deviation: 0.0 });
    assert!(refused(Figure::Lines(unknown)));
    assert!(refused(Figure::Boxes(BoxPlot { x: String::new(), y: Axis::of("y"), boxes: vec![] })));
    let Figure::Histogram(mut histogram) = histogram() else { unreachable!("a histogram") };
    histogram.series[0].heights.pop();
    assert!(refused(Figure::Histogram(histogram)));
}
