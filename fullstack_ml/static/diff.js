// diff.js: where texts differ, character by character as people see them.

const cut = (text) => (globalThis.Intl?.Segmenter ? Array.from(new Intl.Segmenter().segment(text), (s) => s.segment) : [...text]);

/** Pairs of positions that stay the same between two lists: the longest common subsequence. */
function common(a, b) {
  const table = Array.from({ length: a.length + 1 }, () => new Uint16Array(b.length + 1));
  for (let i = a.length - 1; i >= 0; i--) for (let j = b.length - 1; j >= 0; j--) table[i][j] = a[i] === b[j] ? table[i + 1][j + 1] + 1 : Math.max(table[i + 1][j], table[i][j + 1]);
  const pairs = [];
  for (let i = 0, j = 0; i < a.length && j < b.length;) {
    if (a[i] === b[j]) pairs.push([i++, j++]);
    else if (table[i + 1][j] >= table[i][j + 1]) i++;
    else j++;
  }
  return pairs;
}

/** For each text a list of {text, differs, gap}: the first one is compared with all others, the others with the first. */
export function marked(texts) {
  const cuts = texts.map(cut), [first] = cuts, doubt = new Set(), lists = [];
  for (const other of cuts.slice(1)) {
    const pairs = common(first, other), inFirst = new Set(pairs.map(([i]) => i)), inOther = new Set(pairs.map(([, j]) => j));
    first.forEach((_, i) => { if (!inFirst.has(i)) doubt.add(i); });
    const gaps = new Set(); // here a character of the first text is missing
    let last = -1, lastFirst = -1;
    for (const [i, j] of [...pairs, [first.length, other.length]]) {
      if (i - lastFirst > 1 && j - last === 1) gaps.add(j);
      [lastFirst, last] = [i, j];
    }
    lists.push([...other.map((text, j) => ({ text, differs: !inOther.has(j), gap: gaps.has(j) })), ...(gaps.has(other.length) ? [{ text: "", differs: false, gap: true }] : [])]);
  }
  return [first.map((text, i) => ({ text, differs: doubt.has(i), gap: false })), ...lists];
}
