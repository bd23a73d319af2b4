use super::fair_queue::FairQueue;

fn round(queue: &mut FairQueue<u32, u32>, lane: usize, all: usize) -> Vec<u32> {
    let mut out = Vec::new();
    queue.take(lane, all, &mut out);
    out
}

#[test]
fn a_flood_of_one_sender_delays_another_by_one_turn_only() {
    let mut queue = FairQueue::default();
    (0..100_000).for_each(|i| queue.push(0, 1, i));
    queue.push(7, 1, 1_000_000);
    let first = round(&mut queue, 10, usize::MAX);
    assert_eq!(first, (0..10).chain([1_000_000]).collect::<Vec<_>>());
    queue.push(3, 1, 2_000_000);
    assert_eq!(round(&mut queue, 10, usize::MAX).last(), Some(&2_000_000));
}

#[test]
fn each_sender_s_items_keep_their_order_and_none_is_lost() {
    let mut queue = FairQueue::default();
    for i in 0..3_000u32 {
        queue.push(i % 3, 1 + i as usize % 5, i);
    }
    let mut seen = Vec::new();
    while !queue.is_empty() {
        let before = seen.len();
        queue.take(16, 40, &mut seen);
        assert!(seen.len() > before);
    }
    assert_eq!(seen.len(), 3_000);
    for sender in 0..3 {
        assert!(seen.iter().filter(|i| **i % 3 == sender).is_sorted());
    }
}

#[test]
fn a_round_that_is_full_goes_on_with_the_next_sender() {
    let mut queue = FairQueue::default();
    for i in 0..8 {
        (0..8).for_each(|sender| queue.push(sender, 1, sender * 10 + i));
    }
    assert_eq!(round(&mut queue, 2, 4), [0, 1, 10, 11]);
    assert_eq!(round(&mut queue, 2, 4), [20, 21, 30, 31]);
    assert_eq!(round(&mut queue, 2, 4), [40, 41, 50, 51]);
    assert_eq!(round(&mut queue, 2, 4), [60, 61, 70, 71]);
    assert_eq!(round(&mut queue, 2, 4), [2, 3, 12, 13]);
}

#[test]
fn an_item_that_costs_more_than_a_turn_has_one_to_itself() {
    let mut queue = FairQueue::default();
    (0..3).for_each(|i| queue.push(1, 4096, i));
    queue.push(2, 1, 10);
    assert_eq!(round(&mut queue, 256, usize::MAX), [0, 10]);
    assert_eq!(round(&mut queue, 256, usize::MAX), [1]);
}
