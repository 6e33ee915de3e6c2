import { closeSync, fstatSync, openSync, readSync } from 'node:fs';
import { type Bytes, type WireField, WireWriter, wireFields } from './wire.ts';

/** Raw data of at least this many bytes stays in the file. */
const largeTensor = 2 ** 16;

/** Key of the external_data entry that marks raw data of the .onnx file itself. */
export const embeddedKey = 'embedded';

/**
 * The bytes of an .onnx file without the raw data of its large weights, which become references (offset, length,
 * `embedded`) to where they lie in that file: a model of any size is read in little memory. Throws RangeError on
 * a malformed file.
 */
export function skimModel(path: string): Uint8Array {
  const file = openSync(path, 'r');
  try {
    const bytes = new FileBytes(file, fstatSync(file).size);
    // ModelProto.graph = 7, GraphProto.initializer = 5, TensorProto.raw_data = 9
    const tensor = (field: WireField) => {
      const message = new WireWriter();
      for (const part of wireFields(bytes, field.payload, field.end))
        if (part.field === 9 && part.end - part.payload >= largeTensor) reference(message, part);
        else message.bytes(bytes.slice(part.start, part.end));
      return message;
    };
    const graph = (field: WireField) => {
      const message = new WireWriter();
      for (const part of wireFields(bytes, field.payload, field.end))
        if (part.field === 5 && part.end - part.payload >= largeTensor) message.field(5, tensor(part));
        else message.bytes(bytes.slice(part.start, part.end));
      return message;
    };
    const model = new WireWriter();
    for (const field of wireFields(bytes))
      if (field.field === 7 && field.wireType === 2) model.field(7, graph(field));
      else model.bytes(bytes.slice(field.start, field.end));
    return Buffer.concat(model.pieces, model.length);
  } finally {
    closeSync(file);
  }
}

/** external_data = 13 and data_location = 14 (1: external) of a TensorProto. */
function reference(message: WireWriter, { payload, end }: WireField): void {
  message.entry(13, embeddedKey, '1');
  message.entry(13, 'offset', String(payload));
  message.entry(13, 'length', String(end - payload));
  message.bytes(Uint8Array.of(14 * 8, 1));
}

/** A file read through a window that moves with the reader. */
class FileBytes implements Bytes {
  private window: Uint8Array = new Uint8Array(0);
  private start = 0;
  constructor(
    private readonly file: number,
    readonly length: number,
  ) {}

  at(index: number): number | undefined {
    if (index < this.start || index >= this.start + this.window.length) {
      this.window = this.read(index, Math.min(index + 2 ** 16, this.length));
      this.start = index;
    }
    return this.window[index - this.start];
  }

  slice(from: number, to: number): Uint8Array {
    const [first, last] = [from - this.start, to - this.start];
    return first >= 0 && last <= this.window.length ? this.window.slice(first, last) : this.read(from, to);
  }

  private read(from: number, to: number): Uint8Array {
    const bytes = new Uint8Array(Math.max(0, to - from));
    for (let done = 0; done < bytes.length; ) {
      const count = readSync(this.file, bytes, done, bytes.length - done, from + done);
      if (count === 0) throw new RangeError('the file ends within a field');
      done += count;
    }
    return bytes;
  }
}
