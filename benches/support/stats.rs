//! What several runs come down to.

/// More than this of one core used by others makes a figure doubtful.
pub const OTHERS_TOLERATED: f64 = 0.25;

/// The middle of some figures, or between the two in the middle.
///
/// # Panics
/// Without any figure.
pub fn median(figures: impl IntoIterator<Item = f64>) -> f64 {
    let mut figures: Vec<f64> = figures.into_iter().collect();
    figures.sort_by(f64::total_cmp);
    let middle = figures.len() / 2;
    if figures.len() % 2 == 1 {
        figures[middle]
    } else {
        (figures[middle - 1] + figures[middle]) / 2.0
    }
}

/// The least and the greatest ratio of neighbouring runs.
pub fn ratio_range(
    numerators: impl IntoIterator<Item = f64>,
    denominators: impl IntoIterator<Item = f64>,
) -> (f64, f64) {
    let ratios = numerators.into_iter().zip(denominators).map(|(above, below)| above / below);
    ratios.fold((f64::INFINITY, 0.0), |(least, most), ratio| (least.min(ratio), most.max(ratio)))
}
