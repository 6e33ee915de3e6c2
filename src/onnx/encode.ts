import { dirname, relative, resolve, sep } from 'node:path';
import onnxProto from 'onnx-proto';
import { writeFileAtomic } from '../atomicFiles.ts';
import { codeOf } from './dtype.ts';
import type { Attribute, Graph, Model, Node, Value } from './graph.ts';
import { type ExternalData, liesBelow, Tensor } from './tensor.ts';
import { WireWriter } from './wire.ts';

const { onnx } = onnxProto;

/** Protobuf messages end at 2 GiB; beyond this many weight bytes, weights go to an external file. */
const largestInline = 2 ** 31 - 2 ** 24;

/** Decides how a tensor's bytes appear in the file: as raw bytes, or as a reference. */
type Place = (tensor: Tensor) => Uint8Array | { location: string; offset: number; length: number };

const inline: Place = (tensor) => tensor.bytes();

export interface WriteOptions {
  /** false: files that only this process reads need not reach the disk before the call returns. */
  readonly flush?: boolean;
}

/** The bytes of a model with all its weights inside. */
export function encodeModel(model: Model): Uint8Array {
  return Buffer.concat(modelMessage(model, inline).pieces);
}

/**
 * Writes a model file atomically. Weights that already lie in external files of the target folder are
 * referenced there; the others are written inside the file, or to `<name>_data` beside it when they would
 * pass 2 GB. Errors: STORAGE_WRITE on a full disk or a folder that cannot be written.
 */
export function writeModel(model: Model, path: string, options: WriteOptions = {}): void {
  const folder = dirname(resolve(path));
  const within = (tensor: Tensor) => {
    const source = tensor.source as ExternalData;
    if (!tensor.isExternal || source.embedded) return undefined;
    return liesBelow(folder, source.path) ? source : undefined;
  };
  const all = [...tensorsOf(model.graph)];
  const total = all.reduce((sum, tensor) => sum + (within(tensor) ? 0 : tensor.byteLength), 0);
  const split = total > largestInline;
  const data = new Map<Tensor, ExternalData>();
  if (split) {
    const moved = all.filter((tensor) => !within(tensor) && tensor.byteLength >= 1024);
    const external = writeTensors(moved, `${path}_data`, options);
    moved.forEach((tensor, i) => {
      data.set(tensor, external[i]!.source as ExternalData);
    });
  }
  const place: Place = (tensor) => {
    const source = within(tensor) ?? data.get(tensor);
    if (!source) return tensor.bytes();
    return {
      location: relative(folder, source.path).split(sep).join('/'),
      offset: source.offset,
      length: source.length,
    };
  };
  writeFileAtomic(path, modelMessage(model, place).pieces, options);
}

/**
 * Writes tensors one after another to a data file, atomically, and returns tensors that refer to it.
 * Offsets are multiples of 4096 for large tensors, so that they can be mapped into memory, else of 64.
 */
export function writeTensors(tensors: readonly Tensor[], path: string, options: WriteOptions = {}): Tensor[] {
  const moved: Tensor[] = [];
  const pieces = function* () {
    let at = 0;
    for (const tensor of tensors) {
      const align = tensor.byteLength >= 2 ** 16 ? 4096 : 64;
      const offset = Math.ceil(at / align) * align;
      if (offset > at) yield new Uint8Array(offset - at);
      yield* tensor.pieces();
      moved.push(
        new Tensor(tensor.dtype, tensor.dims, { path: resolve(path), offset, length: tensor.byteLength }),
      );
      at = offset + tensor.byteLength;
    }
  };
  writeFileAtomic(path, pieces(), options);
  return moved;
}

/** All initializers of a graph and of the subgraphs in its attributes. */
function* tensorsOf(graph: Graph): Generator<Tensor> {
  for (const value of graph.initializers) if (value.initializer) yield value.initializer;
  for (const node of graph.nodes)
    for (const attribute of node.attributes.values()) {
      if (attribute.type === 'graph') yield* tensorsOf(attribute.value);
    }
}

function modelMessage(model: Model, place: Place): WireWriter {
  const message = new WireWriter();
  message.bytes(
    onnx.ModelProto.encode({
      irVersion: model.irVersion,
      producerName: model.producer,
      opsetImport: [...model.opsets].map(([domain, version]) => ({ domain, version })),
    }).finish(),
  );
  message.field(7, graphMessage(model.graph, place));
  for (const [key, value] of model.metadata) message.entry(14, key, value);
  return message;
}

function graphMessage(graph: Graph, place: Place): WireWriter {
  graph.sort();
  const message = new WireWriter();
  for (const node of graph.nodes) message.field(1, nodeMessage(node, place));
  message.text(2, graph.name);
  for (const value of graph.initializers)
    message.field(5, tensorMessage(value.initializer!, value.name, place));
  for (const value of graph.inputs) message.field(11, infoMessage(value));
  for (const value of graph.outputs) message.field(12, infoMessage(value));
  for (const value of shapedBetween(graph)) message.field(13, infoMessage(value));
  return message;
}

/** Values between nodes whose shape is known (value_info): ONNX Runtime's fusions depend on them. */
function shapedBetween(graph: Graph): Value[] {
  const outputs = new Set(graph.outputs);
  return graph.nodes
    .flatMap((node) => node.outputs.filter((value) => value !== null))
    .filter((value) => value.dtype !== null && value.shape !== null && !outputs.has(value));
}

function nodeMessage(node: Node, place: Place): WireWriter {
  const message = new WireWriter();
  message.bytes(
    onnx.NodeProto.encode({
      input: node.inputs.map((value) => value?.name ?? ''),
      output: node.outputs.map((value) => value?.name ?? ''),
      name: node.name,
      opType: node.op,
      domain: node.domain,
    }).finish(),
  );
  for (const [name, attribute] of node.attributes) message.field(5, attributeMessage(name, attribute, place));
  for (const [key, value] of node.metadata) message.entry(9, key, value);
  return message;
}

/** int64 as protobufjs takes it: beyond 2^53 only the ends of the range occur. */
function int64(value: number) {
  if (Number.isSafeInteger(value)) return value;
  const high = value > 0 ? 0x7fffffff : -0x80000000;
  return { low: value > 0 ? -1 : 0, high, unsigned: false } as unknown as number;
}

function attributeMessage(name: string, attribute: Attribute, place: Place): WireWriter {
  const Type = onnx.AttributeProto.AttributeType;
  const message = new WireWriter();
  const utf8 = (text: string) => new TextEncoder().encode(text);
  const fields = ((): Parameters<typeof onnx.AttributeProto.encode>[0] => {
    switch (attribute.type) {
      case 'float':
        return { type: Type.FLOAT, f: attribute.value };
      case 'int':
        return { type: Type.INT, i: int64(attribute.value) };
      case 'string':
        return { type: Type.STRING, s: utf8(attribute.value) };
      case 'floats':
        return { type: Type.FLOATS, floats: [...attribute.value] };
      case 'ints':
        return { type: Type.INTS, ints: attribute.value.map(int64) };
      case 'strings':
        return { type: Type.STRINGS, strings: attribute.value.map(utf8) };
      case 'tensor':
        return { type: Type.TENSOR };
      case 'graph':
        return { type: Type.GRAPH };
    }
  })();
  message.bytes(onnx.AttributeProto.encode({ name, ...fields }).finish());
  // AttributeProto.t = 5, AttributeProto.g = 6. Tensors in attributes are always inside the file.
  if (attribute.type === 'tensor') message.field(5, tensorMessage(attribute.value, '', inline));
  if (attribute.type === 'graph') message.field(6, graphMessage(attribute.value, place));
  return message;
}

function tensorMessage(tensor: Tensor, name: string, place: Place): WireWriter {
  const message = new WireWriter();
  message.bytes(
    onnx.TensorProto.encode({
      dims: [...tensor.dims],
      dataType: codeOf(tensor.dtype),
      name,
      ...(tensor.strings ? { stringData: [...tensor.strings] } : {}),
    }).finish(),
  );
  if (tensor.strings) return message;
  const placed = place(tensor);
  if (placed instanceof Uint8Array) {
    message.field(9, placed);
    return message;
  }
  message.entry(13, 'location', placed.location);
  message.entry(13, 'offset', String(placed.offset));
  message.entry(13, 'length', String(placed.length));
  message.bytes(Uint8Array.of(14 * 8, 1));
  return message;
}

function infoMessage(value: Value): Uint8Array {
  const shape = value.shape?.map((dim) =>
    dim === null ? {} : typeof dim === 'number' ? { dimValue: dim } : { dimParam: dim },
  );
  return onnx.ValueInfoProto.encode({
    name: value.name,
    ...(value.dtype
      ? {
          type: {
            tensorType: { elemType: codeOf(value.dtype), ...(shape ? { shape: { dim: shape } } : {}) },
          },
        }
      : {}),
  }).finish();
}
