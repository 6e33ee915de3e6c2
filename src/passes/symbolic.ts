import type { Dim } from '../onnx/graph.ts';

/**
 * Arithmetic on lengths: integer polynomials over symbolic names, in a normal form, so that equal lengths are
 * equal strings ('batch_size', '4*sequence_length', 'past_sequence_length + sequence_length'). Every name stands
 * for a length, hence for a number >= 0. null is an unknown number and absorbs.
 */
type Polynomial = ReadonlyMap<string, number>;

const parsed = new Map<string, Polynomial>();

/** A polynomial as terms: monomial ('' for the constant, 'a*b' with sorted factors) to its coefficient. */
function polynomial(dim: number | string): Polynomial {
  if (typeof dim === 'number') return dim === 0 ? new Map() : new Map([['', dim]]);
  let terms = parsed.get(dim);
  if (!terms) {
    terms = parse(dim) ?? new Map([[dim.replace(/[^\w.]/g, '_'), 1]]);
    parsed.set(dim, terms);
  }
  return terms;
}

/** Sums and products of integers, names and `floordiv(...)`; undefined for anything else that a file may call a dim. */
function parse(text: string): Polynomial | undefined {
  const tokens = text.match(/\d+|floordiv\([^()]*\)|[A-Za-z_][\w.]*|[-+*()]|\S/g) ?? [];
  let at = 0;
  const factor = (): Polynomial | undefined => {
    const token = tokens[at++];
    if (token === undefined) return undefined;
    if (/^\d/.test(token)) return polynomial(Number(token));
    if (/^[A-Za-z_]/.test(token)) return new Map([[token, 1]]);
    if (token === '-') {
      const inner = factor();
      return inner && times(inner, new Map([['', -1]]));
    }
    if (token !== '(') return undefined;
    const inner = sum();
    return tokens[at++] === ')' ? inner : undefined;
  };
  const product = (): Polynomial | undefined => {
    let left = factor();
    while (left && tokens[at] === '*') {
      at++;
      const right = factor();
      left = right && times(left, right);
    }
    return left;
  };
  const sum = (): Polynomial | undefined => {
    let left = product();
    while (left && (tokens[at] === '+' || tokens[at] === '-')) {
      const sign = tokens[at++] === '+' ? 1 : -1;
      const right = product();
      left = right && plus(left, right, sign);
    }
    return left;
  };
  const result = sum();
  return at === tokens.length ? result : undefined;
}

function plus(a: Polynomial, b: Polynomial, sign: number): Polynomial {
  const terms = new Map(a);
  for (const [monomial, coefficient] of b) {
    const total = (terms.get(monomial) ?? 0) + sign * coefficient;
    if (total === 0) terms.delete(monomial);
    else terms.set(monomial, total);
  }
  return terms;
}

const factors = (monomial: string): string[] => (monomial === '' ? [] : monomial.split('*'));

function times(a: Polynomial, b: Polynomial): Polynomial {
  let terms: Polynomial = new Map();
  for (const [left, x] of a)
    for (const [right, y] of b) {
      const monomial = [...factors(left), ...factors(right)].sort().join('*');
      terms = plus(terms, new Map([[monomial, x * y]]), 1);
    }
  return terms;
}

/** Highest total degree first, then by name: one order for printing and for division. */
function ordered(terms: Polynomial): [string, number][] {
  return [...terms].sort(([a], [b]) => factors(b).length - factors(a).length || (a < b ? -1 : a > b ? 1 : 0));
}

function render(terms: Polynomial): Dim {
  const list = ordered(terms);
  for (const [, coefficient] of list) if (!Number.isSafeInteger(coefficient)) return null;
  if (list.length === 0) return 0;
  if (list.length === 1 && list[0]![0] === '') return list[0]![1];
  const names = list.filter(([monomial]) => monomial !== '');
  const constant = list.filter(([monomial]) => monomial === '');
  const sorted = [
    ...names.filter(([, c]) => c > 0),
    ...constant.filter(([, c]) => c > 0),
    ...names.filter(([, c]) => c < 0),
    ...constant.filter(([, c]) => c < 0),
  ];
  const text = sorted
    .map(([monomial, coefficient], i) => {
      const size = Math.abs(coefficient);
      const term = monomial === '' ? `${size}` : size === 1 ? monomial : `${size}*${monomial}`;
      if (i === 0) return coefficient < 0 ? `-${term}` : term;
      return coefficient < 0 ? ` - ${term}` : ` + ${term}`;
    })
    .join('');
  if (!parsed.has(text)) parsed.set(text, terms);
  return text;
}

/** The dim in normal form. */
export function canonical(dim: Dim): Dim {
  return typeof dim === 'string' ? render(polynomial(dim)) : dim;
}

function binary(operation: (a: Polynomial, b: Polynomial) => Polynomial): (a: Dim, b: Dim) => Dim {
  return (a, b) => (a === null || b === null ? null : render(operation(polynomial(a), polynomial(b))));
}

export const add = binary((a, b) => plus(a, b, 1));
export const subtract = binary((a, b) => plus(a, b, -1));
export const multiply = binary(times);

export function product(dims: readonly Dim[]): Dim {
  // A zero decides the product whatever the others are.
  if (dims.includes(0)) return 0;
  return dims.reduce(multiply, 1);
}

/** Whether the number is certainly >= 0: names are lengths. */
export function isNonNegative(dim: Dim): boolean {
  return dim !== null && [...polynomial(dim).values()].every((coefficient) => coefficient >= 0);
}

/** Whether the number is certainly >= 1. */
export function isPositive(dim: Dim): boolean {
  return isNonNegative(subtract(dim, 1));
}

/** The quotient when the division leaves no rest for any values of the names; undefined otherwise. */
export function divideExactly(a: Dim, b: Dim): Dim | undefined {
  if (a === null || b === null || b === 0) return undefined;
  const divisor = polynomial(b);
  const [lead, leadCoefficient] = ordered(divisor)[0]!;
  let rest = polynomial(a);
  let quotient: Polynomial = new Map();
  while (rest.size > 0) {
    const [monomial, coefficient] = ordered(rest)[0]!;
    const left = factors(monomial);
    for (const name of factors(lead)) {
      const at = left.indexOf(name);
      if (at < 0) return undefined;
      left.splice(at, 1);
    }
    if (coefficient % leadCoefficient !== 0) return undefined;
    const term: Polynomial = new Map([[left.join('*'), coefficient / leadCoefficient]]);
    quotient = plus(quotient, term, 1);
    rest = plus(rest, times(term, divisor), -1);
  }
  return render(quotient);
}

/** Integer division as ONNX does it (towards zero); for lengths that do not divide, a name `floordiv(a, b)`. */
export function divide(a: Dim, b: Dim): Dim {
  if (a === null || b === null || b === 0) return null;
  if (typeof a === 'number' && typeof b === 'number') return Math.trunc(a / b);
  const exact = divideExactly(a, b);
  if (exact !== undefined) return exact;
  if (typeof b !== 'number' || b < 0 || !isNonNegative(a) || /[()]/.test(`${a}`)) return null;
  // The name becomes a factor of monomials, which are split at '*'.
  return render(new Map([[`floordiv(${`${a}`.replaceAll('*', ':')}, ${b})`, 1]]));
}

/** -1, 0 or 1 as a < b, a = b, a > b for all values of the names; null when that depends on them. */
export function compare(a: Dim, b: Dim): -1 | 0 | 1 | null {
  const difference = subtract(a, b);
  if (difference === null) return null;
  if (difference === 0) return 0;
  if (isPositive(difference)) return 1;
  return isPositive(subtract(b, a)) ? -1 : null;
}

export function maximum(a: Dim, b: Dim): Dim {
  if (isNonNegative(subtract(a, b))) return a;
  return isNonNegative(subtract(b, a)) ? b : null;
}

export function minimum(a: Dim, b: Dim): Dim {
  if (isNonNegative(subtract(a, b))) return b;
  return isNonNegative(subtract(b, a)) ? a : null;
}

/** The number when every name has one; null otherwise. */
export function evaluate(dim: Dim, lengths: Readonly<Record<string, number>>): number | null {
  if (typeof dim !== 'string') return dim;
  const lookup = (name: string): number | null => {
    const floor = /^floordiv\((.*), (\d+)\)$/.exec(name);
    if (!floor) return lengths[name] ?? null;
    const inner = evaluate(floor[1]!.replaceAll(':', '*'), lengths);
    return inner === null ? null : Math.floor(inner / Number(floor[2]));
  };
  let total = 0;
  for (const [monomial, coefficient] of polynomial(dim)) {
    let term = coefficient;
    for (const name of factors(monomial)) {
      const length = lookup(name);
      if (length === null) return null;
      term *= length;
    }
    total += term;
  }
  return total;
}

/** Replaces names by other lengths, for example {'past + sequence': 'sequence'} by its names. */
export function substitute(dim: Dim, names: ReadonlyMap<string, number | string>): Dim {
  if (typeof dim !== 'string') return dim;
  let total: Dim = 0;
  for (const [monomial, coefficient] of polynomial(dim)) {
    let term: Dim = coefficient;
    for (const name of factors(monomial)) term = multiply(term, names.get(name) ?? name);
    total = add(total, term);
  }
  return total;
}
