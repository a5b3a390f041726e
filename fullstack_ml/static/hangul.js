// hangul.js: syllables out of single letters, as a Korean keyboard makes them: code = U+AC00 + (lead * 21 + vowel) * 28 + tail.
const LEADS = [..."ㄱㄲㄴㄷㄸㄹㅁㅂㅃㅅㅆㅇㅈㅉㅊㅋㅌㅍㅎ"], VOWELS = [..."ㅏㅐㅑㅒㅓㅔㅕㅖㅗㅘㅙㅚㅛㅜㅝㅞㅟㅠㅡㅢㅣ"];
const TAILS = ["", ..."ㄱㄲㄳㄴㄵㄶㄷㄹㄺㄻㄼㄽㄾㄿㅀㅁㅂㅄㅅㅆㅇㅈㅊㅋㅌㅍㅎ"];
const PAIRS = { ㅗㅏ: "ㅘ", ㅗㅐ: "ㅙ", ㅗㅣ: "ㅚ", ㅜㅓ: "ㅝ", ㅜㅔ: "ㅞ", ㅜㅣ: "ㅟ", ㅡㅣ: "ㅢ", ㄱㅅ: "ㄳ", ㄴㅈ: "ㄵ", ㄴㅎ: "ㄶ", ㄹㄱ: "ㄺ", ㄹㅁ: "ㄻ", ㄹㅂ: "ㄼ", ㄹㅅ: "ㄽ", ㄹㅌ: "ㄾ", ㄹㅍ: "ㄿ", ㄹㅎ: "ㅀ", ㅂㅅ: "ㅄ" };
const SPLIT = Object.fromEntries(Object.entries(PAIRS).map(([pair, one]) => [one, [...pair]]));

const make = (lead, vowel, tail = "") => String.fromCodePoint(0xac00 + (LEADS.indexOf(lead) * 21 + VOWELS.indexOf(vowel)) * 28 + TAILS.indexOf(tail));

function take(syllable) {
  const n = syllable.codePointAt(0) - 0xac00;
  return n >= 0 && n < 11172 ? { lead: LEADS[Math.floor(n / 588)], vowel: VOWELS[Math.floor(n / 28) % 21], tail: TAILS[n % 28] } : null;
}

/** What stands in place of `last` after one more letter: add("하", "ㄴ") is "한", add("한", "ㅏ") is "하나". */
export function add(last, letter) {
  const s = last && take(last), isVowel = VOWELS.includes(letter);
  if (s && !s.tail) {
    if (isVowel) return PAIRS[s.vowel + letter] ? make(s.lead, PAIRS[s.vowel + letter]) : last + letter;
    return TAILS.includes(letter) ? make(s.lead, s.vowel, letter) : last + letter;
  }
  if (s) {
    if (!isVowel) return PAIRS[s.tail + letter] ? make(s.lead, s.vowel, PAIRS[s.tail + letter]) : last + letter;
    const [stays, goes] = SPLIT[s.tail] ?? ["", s.tail]; // a vowel takes the tail along as its own lead
    return make(s.lead, s.vowel, stays) + make(goes, letter);
  }
  if (isVowel && LEADS.includes(last)) return make(last, letter);
  return isVowel && PAIRS[last + letter] ? PAIRS[last + letter] : last + letter;
}

/** One letter less: "한" becomes "하", "하" becomes "ㅎ". */
export function less(last) {
  const s = take(last);
  if (!s) return SPLIT[last] ? SPLIT[last][0] : "";
  if (s.tail) return make(s.lead, s.vowel, SPLIT[s.tail]?.[0] ?? "");
  return SPLIT[s.vowel] ? make(s.lead, SPLIT[s.vowel][0]) : s.lead;
}

export const ROWS = [[..."ㅂㅈㄷㄱㅅㅛㅕㅑㅐㅔ"], [..."ㅁㄴㅇㄹㅎㅗㅓㅏㅣ"], [..."ㅋㅌㅊㅍㅠㅜㅡ"], [..."ㅃㅉㄸㄲㅆㅒㅖ"]];
