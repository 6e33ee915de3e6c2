/**
 * Just enough of the protobuf wire format to read fields that onnx-proto (ONNX 1.10) does not know, to find
 * where in a file a tensor's bytes lie, and to write a model without copying its weights.
 */

/** One field of a message: where its key starts, and where its payload starts and ends. */
export interface WireField {
  readonly field: number;
  readonly wireType: number;
  readonly start: number;
  readonly payload: number;
  readonly end: number;
}

/** Bytes by position, in memory or in a file. */
export interface Bytes {
  readonly length: number;
  at(index: number): number | undefined;
}

/** Reads a varint; low 53 bits are exact. Returns [value, position after it]. */
function varintAt(bytes: Bytes, at: number): [number, number] {
  let value = 0;
  let scale = 1;
  for (let i = at; i < bytes.length; i++) {
    const byte = bytes.at(i)!;
    value += (byte & 0x7f) * scale;
    if (byte < 0x80) return [value, i + 1];
    scale *= 128;
  }
  throw new RangeError('a varint runs past the end of the message');
}

/** The fields of the message in bytes[from, to). Throws RangeError on a malformed message. */
export function* wireFields(bytes: Bytes, from = 0, to = bytes.length): Generator<WireField> {
  for (let at = from; at < to; ) {
    const start = at;
    const [key, afterKey] = varintAt(bytes, at);
    const wireType = key % 8;
    let payload = afterKey;
    let end: number;
    if (wireType === 0) end = varintAt(bytes, afterKey)[1];
    else if (wireType === 1) end = afterKey + 8;
    else if (wireType === 5) end = afterKey + 4;
    else if (wireType === 2) {
      const [length, afterLength] = varintAt(bytes, afterKey);
      payload = afterLength;
      end = afterLength + length;
    } else throw new RangeError(`wire type ${wireType} is not used by ONNX`);
    if (end > to) throw new RangeError('a field runs past the end of its message');
    yield { field: Math.floor(key / 8), wireType, start, payload, end };
    at = end;
  }
}

function wireText(bytes: Uint8Array, field: WireField): string {
  return new TextDecoder().decode(bytes.subarray(field.payload, field.end));
}

/** A repeated StringStringEntryProto (key = 1, value = 2) as one map entry. */
export function wireEntry(bytes: Uint8Array, entry: WireField): [string, string] {
  let key = '';
  let value = '';
  for (const field of wireFields(bytes, entry.payload, entry.end)) {
    if (field.field === 1) key = wireText(bytes, field);
    if (field.field === 2) value = wireText(bytes, field);
  }
  return [key, value];
}

function varint(value: number): Uint8Array {
  const bytes: number[] = [];
  let rest = value;
  while (rest > 127) {
    bytes.push((rest % 128) | 128);
    rest = Math.floor(rest / 128);
  }
  bytes.push(rest);
  return Uint8Array.from(bytes);
}

/** Message bytes as a list of pieces, so that weights are written from where they lie. */
export class WireWriter {
  readonly pieces: Uint8Array[] = [];
  length = 0;

  bytes(piece: Uint8Array): void {
    this.pieces.push(piece);
    this.length += piece.byteLength;
  }

  /** A length-delimited field whose payload is given whole. */
  field(number: number, payload: Uint8Array | WireWriter): void {
    this.bytes(varint(number * 8 + 2));
    this.bytes(varint(payload instanceof WireWriter ? payload.length : payload.byteLength));
    if (payload instanceof WireWriter) for (const piece of payload.pieces) this.bytes(piece);
    else this.bytes(payload);
  }

  text(number: number, text: string): void {
    this.field(number, new TextEncoder().encode(text));
  }

  entry(number: number, key: string, value: string): void {
    const entry = new WireWriter();
    entry.text(1, key);
    entry.text(2, value);
    this.field(number, entry);
  }
}
