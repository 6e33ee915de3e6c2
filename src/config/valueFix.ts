import { nearest } from '../errors.ts';
import { describeAllowed, type JsonSchema } from './jsonSchema.ts';

/** How to mend a value that a schema refuses: the one slip that it looks like, or what to write in its place. */
export function valueFix(
  name: string,
  got: unknown,
  here: JsonSchema | undefined,
  isRequired: boolean,
): string {
  if (!here) return '`npx onnx-alora schema` prints what every key takes';
  const slip = slipOf(got, here);
  if (slip !== undefined) return `write ${slip}`;
  if (here.properties) return `write its keys on lines of their own beneath ${name}, indented`;
  const instead = `write ${numberFor(got, here) ?? describeAllowed(here, got)}`;
  return isRequired || here.default !== undefined ? instead : `${instead}, or leave ${name} out`;
}

const variantsOf = (schema: JsonSchema): readonly JsonSchema[] => schema.anyOf ?? [schema];
const isNumber = ({ type, enum: words }: JsonSchema): boolean =>
  (type === 'number' || type === 'integer') && !words;

/** The value that was meant, where that can be told. */
function slipOf(got: unknown, here: JsonSchema): string | undefined {
  const variants = variantsOf(here);
  const takesText = variants.some(({ type, enum: words }) => type === 'string' && !words);
  const takesBoolean = variants.some(({ type }) => type === 'boolean');
  const list = variants.find(({ type }) => type === 'array');
  if (typeof got === 'number' || typeof got === 'boolean') {
    if (list && list.items?.type !== 'string') return `[${got}]`;
    return takesText && !variants.some(isNumber) ? `"${got}", in quotes` : undefined;
  }
  if (Array.isArray(got) && got.length === 1 && typeof got[0] === 'string' && takesText && !list)
    return `${got[0]}, not a list`;
  if (typeof got !== 'string' || got.trim() === '') return undefined;
  const words = variants.flatMap((variant) => variant.enum ?? variant.const ?? []).map(String);
  const near = nearest(got, words);
  if (near !== undefined) return near;
  // YAML takes 8 for a number and "8" for a text.
  if (Number.isFinite(Number(got)) && !takesText) return `${got.trim()} without quotes`;
  // YAML 1.2 knows true and false alone.
  if (takesBoolean && /^(y|yes|on)$/i.test(got)) return 'true';
  if (takesBoolean && /^(n|no|off)$/i.test(got)) return 'false';
  return list?.items?.type === 'string' ? `[${got.split(/[\s,]+/).join(', ')}]` : undefined;
}

/** The nearest bound that a number breaks, or the number that stands there by default. */
function numberFor(got: unknown, here: JsonSchema): string | undefined {
  const variant = variantsOf(here).find(isNumber);
  if (!variant || (typeof got !== 'number' && variantsOf(here).length > 1)) return undefined;
  const {
    minimum = -Infinity,
    exclusiveMinimum: above,
    maximum = Infinity,
    exclusiveMaximum: below,
  } = variant;
  const isWhole = variant.type === 'integer';
  if (typeof got !== 'number' || !Number.isFinite(got)) {
    const usual = here.default === undefined ? '' : ` such as ${here.default}`;
    return `a ${isWhole ? 'whole ' : ''}number${usual}`;
  }
  if (got < minimum) return `${minimum} or more`;
  if (above !== undefined && got <= above) return `a number above ${above}`;
  if (got > maximum) return `${maximum} or less`;
  if (below !== undefined && got >= below) return `a number below ${below}`;
  return isWhole ? `a whole number such as ${Math.max(minimum, Math.round(got))}` : undefined;
}
