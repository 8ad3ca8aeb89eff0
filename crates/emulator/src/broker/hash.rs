//! Partition choice for keyed events.

/// The service's hash of a partition key: Bob Jenkins' lookup3 `hashlittle2` over UTF-8, both seeds
/// zero, folded to 16 bits.
pub(crate) fn hash(key: &str) -> i16 {
    let bytes = key.as_bytes();
    let seed = 0xdead_beef_u32.wrapping_add(bytes.len() as u32);
    let (mut a, mut b, mut c) = (seed, seed, seed);
    let mut rest = bytes;
    // The last block, even if full, is for the final mix.
    while let Some((block, after)) = rest.split_first_chunk::<12>()
        && !after.is_empty()
    {
        let [x, y, z] = words(block);
        a = a.wrapping_add(x);
        b = b.wrapping_add(y);
        c = c.wrapping_add(z);
        mix(&mut a, &mut b, &mut c);
        rest = after;
    }
    if !rest.is_empty() {
        let mut block = [0; 12];
        for (room, byte) in block.iter_mut().zip(rest) {
            *room = *byte;
        }
        let [x, y, z] = words(&block);
        a = a.wrapping_add(x);
        b = b.wrapping_add(y);
        c = c.wrapping_add(z);
        finish(&mut a, &mut b, &mut c);
    }
    (c ^ b) as i16
}

/// The partition a key belongs to, with C's truncating remainder.
pub(crate) fn partition_for(key: &str, partitions: usize) -> usize {
    // At most 2000 partitions, see the limits.
    let count = i32::try_from(partitions).unwrap_or(i32::MAX).max(1);
    (i32::from(hash(key)) % count).unsigned_abs() as usize
}

fn words(block: &[u8; 12]) -> [u32; 3] {
    let &[b0, b1, b2, b3, b4, b5, b6, b7, b8, b9, b10, b11] = block;
    [
        u32::from_le_bytes([b0, b1, b2, b3]),
        u32::from_le_bytes([b4, b5, b6, b7]),
        u32::from_le_bytes([b8, b9, b10, b11]),
    ]
}

fn mix(a: &mut u32, b: &mut u32, c: &mut u32) {
    *a = a.wrapping_sub(*c) ^ c.rotate_left(4);
    *c = c.wrapping_add(*b);
    *b = b.wrapping_sub(*a) ^ a.rotate_left(6);
    *a = a.wrapping_add(*c);
    *c = c.wrapping_sub(*b) ^ b.rotate_left(8);
    *b = b.wrapping_add(*a);
    *a = a.wrapping_sub(*c) ^ c.rotate_left(16);
    *c = c.wrapping_add(*b);
    *b = b.wrapping_sub(*a) ^ a.rotate_left(19);
    *a = a.wrapping_add(*c);
    *c = c.wrapping_sub(*b) ^ b.rotate_left(4);
    *b = b.wrapping_add(*a);
}

fn finish(a: &mut u32, b: &mut u32, c: &mut u32) {
    *c = (*c ^ *b).wrapping_sub(b.rotate_left(14));
    *a = (*a ^ *c).wrapping_sub(c.rotate_left(11));
    *b = (*b ^ *a).wrapping_sub(a.rotate_left(25));
    *c = (*c ^ *b).wrapping_sub(b.rotate_left(16));
    *a = (*a ^ *c).wrapping_sub(c.rotate_left(4));
    *b = (*b ^ *a).wrapping_sub(a.rotate_left(14));
    *c = (*c ^ *b).wrapping_sub(b.rotate_left(24));
}

#[cfg(test)]
mod tests {
    use super::*;

    /// INTEROP: the vectors in the tests of the JS and Rust SDKs.
    const VECTORS: [(&str, i16, usize, usize); 5] = [
        ("7", -15263, 3, 3),
        ("131", 30562, 2, 2),
        ("7149583486996073602", 12977, 1, 7),
        ("FWfAT", -22341, 1, 1),
        ("sOdeEAsyQoEuEFPGerWO", -6503, 3, 3),
    ];

    #[test]
    fn agrees_with_the_vectors_of_the_sdks() {
        for (key, expected, of_four, of_ten) in VECTORS {
            assert_eq!(hash(key), expected, "{key}");
            assert_eq!(partition_for(key, 4), of_four, "{key}");
            assert_eq!(partition_for(key, 10), of_ten, "{key}");
        }
        assert_eq!(hash("é"), 24812);
    }

    #[test]
    fn takes_every_length_around_the_block_size() {
        for len in 0..40 {
            let key = "k".repeat(len);
            assert!(partition_for(&key, 7) < 7);
        }
    }
}
