/**
 * Porter's stemmer (Porter 1980, "An algorithm for suffix stripping") with the extensions of NLTK, whose METEOR stems
 * words this way: a few irregular forms, -ies and -ied of four letters, -y only after a consonant.
 */

const irregular: Readonly<Record<string, string>> = {
  sky: 'sky',
  skies: 'sky',
  dying: 'die',
  lying: 'lie',
  tying: 'tie',
  news: 'news',
  innings: 'inning',
  inning: 'inning',
  outings: 'outing',
  outing: 'outing',
  cannings: 'canning',
  canning: 'canning',
  howe: 'howe',
  proceed: 'proceed',
  exceed: 'exceed',
  succeed: 'succeed',
};

/** c for a consonant, v for a vowel; y is a vowel after a consonant. */
function shape(word: string): string {
  let flags = '';
  for (const letter of word) {
    const consonant = letter === 'y' ? !flags.endsWith('c') : !'aeiou'.includes(letter);
    flags += consonant ? 'c' : 'v';
  }
  return flags;
}

/** m of the paper: how often a consonant follows a vowel. */
const measure = (stem: string) => shape(stem).split('vc').length - 1;

const endsDouble = (word: string) => /(.)\1$/.test(word) && shape(word).endsWith('c');
/** *o of the paper. */
const endsShort = (word: string) =>
  (shape(word).endsWith('cvc') && !/[wxy]$/.test(word)) || shape(word) === 'vc';

type Rule = readonly [suffix: string, replacement: string];

/** The first rule whose suffix fits decides, whether or not its condition holds. */
function apply(
  word: string,
  rules: readonly Rule[],
  allowed: (stem: string, suffix: string) => boolean,
): string {
  for (const [suffix, replacement] of rules) {
    if (!word.endsWith(suffix)) continue;
    const stem = word.slice(0, word.length - suffix.length);
    return allowed(stem, suffix) ? stem + replacement : word;
  }
  return word;
}

const rules = (text: string): Rule[] =>
  text.split(' ').map((rule) => {
    const [suffix = '', replacement = ''] = rule.split('>');
    return [suffix, replacement];
  });

const step2Rules = rules(
  'ational>ate tional>tion enci>ence anci>ance izer>ize bli>ble alli>al entli>ent eli>e ousli>ous ization>ize ation>ate ' +
    'ator>ate alism>al iveness>ive fulness>ful ousness>ous aliti>al iviti>ive biliti>ble fulli>ful logi>log',
);
const step3Rules = rules('icate>ic ative> alize>al iciti>ic ical>ic ful> ness>');
const step4Rules = rules(
  'al> ance> ence> er> ic> able> ible> ant> ement> ment> ent> ion> ou> ism> ate> iti> ous> ive> ize>',
);

function step1a(word: string): string {
  if (word.endsWith('ies')) return word.slice(0, word.length === 4 ? -1 : -2);
  if (word.endsWith('sses')) return word.slice(0, -2);
  return word.endsWith('s') && !word.endsWith('ss') ? word.slice(0, -1) : word;
}

function step1b(word: string): string {
  if (word.endsWith('ied')) return word.slice(0, word.length === 4 ? -1 : -2);
  if (word.endsWith('eed')) return measure(word.slice(0, -3)) > 0 ? word.slice(0, -1) : word;
  const suffix = ['ed', 'ing'].find((s) => word.endsWith(s) && shape(word.slice(0, -s.length)).includes('v'));
  if (suffix === undefined) return word;
  const stem = word.slice(0, -suffix.length);
  if (/(at|bl|iz)$/.test(stem)) return `${stem}e`;
  if (endsDouble(stem)) return /[lsz]$/.test(stem) ? stem : stem.slice(0, -1);
  return measure(stem) === 1 && endsShort(stem) ? `${stem}e` : stem;
}

function step1c(word: string): string {
  const stem = word.slice(0, -1);
  return word.endsWith('y') && stem.length > 1 && shape(stem).endsWith('c') ? `${stem}i` : word;
}

function step2(word: string): string {
  const short = word.slice(0, -4);
  if (word.endsWith('alli') && measure(short) > 0) return step2(`${short}al`);
  // The l of -logi counts as part of the stem.
  return apply(word, step2Rules, (stem, suffix) => measure(suffix === 'logi' ? `${stem}l` : stem) > 0);
}

function step5(word: string): string {
  let result = word;
  if (word.endsWith('e')) {
    const stem = word.slice(0, -1);
    const m = measure(stem);
    if (m > 1 || (m === 1 && !endsShort(stem))) result = stem;
  }
  return result.endsWith('ll') && measure(result.slice(0, -1)) > 1 ? result.slice(0, -1) : result;
}

/** The stem of an English word, in lower case. */
export function porterStem(text: string): string {
  const word = text.toLowerCase();
  const known = Object.hasOwn(irregular, word) ? irregular[word] : undefined;
  if (known !== undefined) return known;
  if (word.length <= 2) return word;
  const third = apply(step2(step1c(step1b(step1a(word)))), step3Rules, (stem) => measure(stem) > 0);
  const fourth = apply(
    third,
    step4Rules,
    (stem, s) => measure(stem) > 1 && (s !== 'ion' || /[st]$/.test(stem)),
  );
  return step5(fourth);
}
