//! [core] How many chunks each source gets.

/// Shares of `total` in proportion to `weights`, by largest remainder, ties to the first; equal if all weights are 0.
///
/// The shares sum to `total`, each differs from its exact quota by less than 1.
/// Source: "Adaptive state transfer", equation (1), with the rounding that it leaves open.
pub fn apportion(total: u64, weights: &[u64]) -> Vec<u64> {
    let sum: u128 = weights.iter().map(|w| u128::from(*w)).sum();
    if weights.is_empty() {
        return Vec::new();
    }
    if sum == 0 {
        return apportion(total, &vec![1; weights.len()]);
    }
    // total · weight < 2^128.
    let quotas = || weights.iter().map(|w| u128::from(total) * u128::from(*w));
    let mut shares: Vec<u64> = quotas().map(|q| (q / sum) as u64).collect();
    let mut by_remainder: Vec<(u128, usize)> = quotas().map(|q| q % sum).zip(0..).collect();
    by_remainder.sort_by_key(|(remainder, at)| (std::cmp::Reverse(*remainder), *at));
    let rest = total - shares.iter().sum::<u64>();
    for (_, at) in by_remainder.into_iter().take(rest as usize) {
        shares[at] += 1;
    }
    shares
}

/// As [`apportion`], but of fewer chunks than there are sources with a weight the fastest get one each.
pub fn shares(total: u64, weights: &[u64]) -> Vec<u64> {
    let able = weights.iter().filter(|w| **w > 0).count() as u64;
    if total >= able {
        return apportion(total, weights);
    }
    let mut fastest: Vec<usize> = (0..weights.len()).collect();
    fastest.sort_by_key(|at| (std::cmp::Reverse(weights[*at]), *at));
    let mut shares = vec![0; weights.len()];
    fastest.into_iter().take(total as usize).for_each(|at| shares[at] = 1);
    shares
}
