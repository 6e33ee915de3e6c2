import { existsSync, realpathSync, statSync } from 'node:fs';
import { dirname, isAbsolute, resolve } from 'node:path';
import onnxProto from 'onnx-proto';
import { AloraError } from '../errors.ts';
import { byteLength, type DType, dtypeOf } from './dtype.ts';
import { type Attribute, type Dim, Graph, type Model, Node, type Value } from './graph.ts';
import { otherFormat } from './otherFormats.ts';
import { embeddedKey, skimModel } from './skim.ts';
import { type ExternalData, liesBelow, Tensor } from './tensor.ts';
import { type WireField, wireEntry, wireFields } from './wire.ts';

const { onnx } = onnxProto;
type Proto = typeof onnx;
type ModelProto = InstanceType<Proto['ModelProto']>;
type GraphProto = InstanceType<Proto['GraphProto']>;
type TensorProto = InstanceType<Proto['TensorProto']>;
type AttributeProto = InstanceType<Proto['AttributeProto']>;

/** int64 fields arrive as numbers or as Long objects. */
const integer = (value: unknown): number => Number(value);

function broken(path: string, cause: unknown): AloraError {
  const other = existsSync(path) ? otherFormat(path) : undefined;
  return new AloraError('model', 'MODEL_UNREADABLE', 'The file is not a readable ONNX model', {
    where: path,
    got: other?.what ?? (cause instanceof Error ? cause.message : undefined),
    fix: other?.fix ?? 'Download or export the file again; a cut download looks like this.',
    cause,
  });
}

/**
 * Reads an .onnx file. Large weights stay where they are, in it or in external data files, which must lie inside
 * the model's folder; their bytes are read when asked for.
 */
export function readModel(path: string): Model {
  if (!existsSync(path) || !statSync(path).isFile())
    throw new AloraError('model', 'MODEL_NOT_FOUND', 'There is no ONNX file at this path', {
      where: path,
      fix: 'Give the path of an .onnx file, or of a model directory that holds one.',
    });
  let bytes: Uint8Array;
  try {
    bytes = skimModel(path);
  } catch (cause) {
    throw broken(path, cause);
  }
  return decodeModel(bytes, path);
}

/** Decodes the bytes of an .onnx file; `path` locates external data and names the model in errors. */
export function decodeModel(bytes: Uint8Array, path: string): Model {
  let proto: ModelProto;
  let metadata: NodeMetadata;
  try {
    proto = onnx.ModelProto.decode(bytes);
    metadata = nodeMetadata(bytes);
  } catch (cause) {
    throw broken(path, cause);
  }
  if (!proto.graph?.output || proto.opsetImport.length === 0) throw broken(path, new Error('no graph'));
  if (proto.functions.length > 0)
    throw new AloraError(
      'model',
      'MODEL_FUNCTIONS',
      'The model defines functions of its own, which are not inlined',
      {
        where: path,
        got: proto.functions.map((f) => f.name).join(', '),
        fix: 'Inline them at export (torch.onnx.export does by default; onnx.inliner.inline_local_functions).',
      },
    );
  const reader = new GraphReader(path);
  return {
    irVersion: integer(proto.irVersion),
    opsets: new Map(
      proto.opsetImport.map((o) => [o.domain === 'ai.onnx' ? '' : (o.domain ?? ''), integer(o.version)]),
    ),
    graph: reader.graph(proto.graph as GraphProto, new Map(), metadata),
    producer: proto.producerName ?? '',
    metadata: new Map(proto.metadataProps.map((entry) => [entry.key ?? '', entry.value ?? ''])),
  };
}

/** metadata_props of each node in file order, and those of the subgraphs in its attributes. */
type NodeMetadata = readonly { own: Map<string, string>; subgraphs: NodeMetadata[] }[];

/** Reads NodeProto.metadata_props (field 9), which onnx-proto drops. ModelProto.graph = 7, GraphProto.node = 1. */
function nodeMetadata(bytes: Uint8Array): NodeMetadata {
  for (const field of wireFields(bytes))
    if (field.field === 7 && field.wireType === 2) return graphMetadata(bytes, field);
  return [];
}

function graphMetadata(bytes: Uint8Array, graph: WireField): NodeMetadata {
  const nodes: { own: Map<string, string>; subgraphs: NodeMetadata[] }[] = [];
  for (const node of wireFields(bytes, graph.payload, graph.end)) {
    if (node.field !== 1) continue;
    const own = new Map<string, string>();
    const subgraphs: NodeMetadata[] = [];
    for (const field of wireFields(bytes, node.payload, node.end)) {
      if (field.field === 9) own.set(...wireEntry(bytes, field));
      // NodeProto.attribute = 5, AttributeProto.g = 6
      if (field.field === 5)
        for (const part of wireFields(bytes, field.payload, field.end))
          if (part.field === 6 && part.wireType === 2) subgraphs.push(graphMetadata(bytes, part));
    }
    nodes.push({ own, subgraphs });
  }
  return nodes;
}

class GraphReader {
  private readonly folder: string;
  constructor(private readonly path: string) {
    this.folder = dirname(resolve(path));
  }

  graph(proto: GraphProto, outer: ReadonlyMap<string, Value>, metadata: NodeMetadata): Graph {
    const graph = new Graph(proto.name ?? 'graph');
    const values = new Map(outer);
    const define = (name: string): Value => {
      const value = graph.value(name);
      // Names of a file must survive: a second definition of the same name is an invalid model.
      if (value.name !== name) throw broken(this.path, new Error(`'${name}' is defined twice`));
      values.set(name, value);
      return value;
    };
    for (const info of proto.input ?? []) {
      const value = define(info.name ?? '');
      Object.assign(value, typeOf(info.type));
      graph.inputs.push(value);
    }
    for (const tensorProto of proto.initializer ?? []) {
      const name = tensorProto.name ?? '';
      const known = graph.inputs.find((input) => input.name === name);
      const value = known ?? define(name);
      const tensor = this.tensor(tensorProto as TensorProto);
      value.initializer = tensor;
      value.dtype = tensor.dtype;
      value.shape = tensor.dims;
      graph.initializers.add(value);
    }
    if ((proto.sparseInitializer ?? []).length > 0) throw broken(this.path, new Error('sparse initializers'));
    for (const node of proto.node ?? []) for (const name of node.output ?? []) if (name) define(name);
    for (const info of [...(proto.valueInfo ?? []), ...(proto.output ?? [])]) {
      const value = values.get(info.name ?? '');
      if (value && !value.initializer && value.dtype === null) Object.assign(value, typeOf(info.type));
    }
    (proto.node ?? []).forEach((nodeProto, index) => {
      const value = (name: string): Value | null => {
        if (name === '') return null;
        const found = values.get(name);
        if (!found)
          throw broken(
            this.path,
            new Error(`node '${nodeProto.name}' reads '${name}', which nothing defines`),
          );
        return found;
      };
      const domain = nodeProto.domain === 'ai.onnx' ? '' : (nodeProto.domain ?? '');
      const inputs = (nodeProto.input ?? []).map(value);
      const node = new Node(
        nodeProto.opType ?? '',
        domain,
        nodeProto.name ?? '',
        inputs,
        (nodeProto.output ?? []).map(value),
      );
      if (node.name) graph.reserve(node.name);
      node.metadata = metadata[index]?.own ?? new Map();
      let subgraph = 0;
      for (const attribute of nodeProto.attribute ?? []) {
        const nested = attribute.g ? (metadata[index]?.subgraphs[subgraph++] ?? []) : [];
        node.setAttribute(attribute.name ?? '', this.attribute(attribute as AttributeProto, values, nested));
      }
      graph.add(node);
    });
    graph.outputs = (proto.output ?? []).map((info) => {
      const value = values.get(info.name ?? '');
      if (!value) throw broken(this.path, new Error(`output '${info.name}' is not made by any node`));
      return value;
    });
    return graph;
  }

  private attribute(
    proto: AttributeProto,
    scope: ReadonlyMap<string, Value>,
    metadata: NodeMetadata,
  ): Attribute {
    const Type = onnx.AttributeProto.AttributeType;
    const text = (bytes: Uint8Array) => new TextDecoder().decode(bytes);
    switch (proto.type) {
      case Type.FLOAT:
        return { type: 'float', value: proto.f };
      case Type.INT:
        return { type: 'int', value: integer(proto.i) };
      case Type.STRING:
        return { type: 'string', value: text(proto.s) };
      case Type.TENSOR:
        return { type: 'tensor', value: this.tensor(proto.t as TensorProto) };
      case Type.GRAPH:
        return { type: 'graph', value: this.graph(proto.g as GraphProto, scope, metadata) };
      case Type.FLOATS:
        return { type: 'floats', value: proto.floats };
      case Type.INTS:
        return { type: 'ints', value: proto.ints.map(integer) };
      case Type.STRINGS:
        return { type: 'strings', value: proto.strings.map(text) };
      default:
        throw new AloraError(
          'model',
          'MODEL_ATTRIBUTE_TYPE',
          `Attribute ${proto.name} has a type that is not supported`,
          {
            where: this.path,
            got: Type[proto.type] ?? proto.type,
            allowed: 'float, int, string, tensor or graph, and lists of the first three',
            fix: 'export the model again with standard operators',
          },
        );
    }
  }

  private tensor(proto: TensorProto): Tensor {
    const dims = proto.dims.map(integer);
    const dtype = dtypeOf(proto.dataType);
    if (!dtype)
      throw new AloraError(
        'model',
        'MODEL_DTYPE',
        `Tensor '${proto.name}' has an element type that is not supported`,
        {
          where: this.path,
          got: `TensorProto.DataType ${proto.dataType}`,
          fix: 'export the model in float32 or float16',
        },
      );
    if (proto.dataLocation === onnx.TensorProto.DataLocation.EXTERNAL)
      return new Tensor(dtype, dims, this.external(proto, dtype, dims));
    if (dtype === 'string') return new Tensor(dtype, dims, new Uint8Array(0), proto.stringData);
    if (proto.rawData && proto.rawData.byteLength > 0) return new Tensor(dtype, dims, proto.rawData);
    return new Tensor(dtype, dims, typedData(proto, dtype, dims));
  }

  private external(proto: TensorProto, dtype: DType, dims: readonly number[]): ExternalData {
    const entries = new Map(proto.externalData.map((entry) => [entry.key, entry.value ?? '']));
    if (entries.has(embeddedKey))
      return {
        path: resolve(this.path),
        offset: Number(entries.get('offset')),
        length: Number(entries.get('length')),
        embedded: true,
      };
    const location = entries.get('location') ?? '';
    const path = resolve(this.folder, location);
    if (location === '' || isAbsolute(location) || !liesBelow(this.folder, path))
      throw new AloraError(
        'model',
        'MODEL_EXTERNAL_OUTSIDE',
        "External data must stay inside the model's folder",
        {
          where: `${this.path}, tensor '${proto.name}'`,
          got: location,
          fix: 'Put the data file beside the .onnx file and export with a relative location.',
        },
      );
    if (!existsSync(path) || !statSync(path).isFile())
      throw new AloraError(
        'model',
        'MODEL_EXTERNAL_MISSING',
        'An external data file of the model is missing',
        {
          where: path,
          fix: 'Download it too: a large model is its .onnx file and the data files beside it.',
        },
      );
    if (!liesBelow(realpathSync(this.folder), realpathSync(path)))
      throw new AloraError(
        'model',
        'MODEL_EXTERNAL_OUTSIDE',
        "External data must stay inside the model's folder",
        {
          where: `${this.path}, tensor '${proto.name}'`,
          got: `${location} is a link to ${realpathSync(path)}`,
          fix: 'Replace the link by the file, or by a hard link.',
        },
      );
    const offset = Number(entries.get('offset') ?? 0);
    const expected = byteLength(
      dtype,
      dims.reduce((a, b) => a * b, 1),
    );
    const length = Number(entries.get('length') ?? expected);
    if (offset + length > statSync(path).size)
      throw new AloraError(
        'model',
        'MODEL_EXTERNAL_SHORT',
        'An external data file ends before its last tensor',
        {
          where: path,
          got: `${statSync(path).size} bytes`,
          allowed: `at least ${offset + length} bytes for tensor '${proto.name}'`,
          fix: 'Download the data file again: it is cut short.',
        },
      );
    return { path, offset, length };
  }
}

/** The raw bytes of a tensor whose elements are in the typed fields of the message. */
function typedData(proto: TensorProto, dtype: DType, dims: readonly number[]): Uint8Array {
  const size = dims.reduce((a, b) => a * b, 1);
  if (size === 0) return new Uint8Array(0);
  switch (dtype) {
    case 'float32':
      return Tensor.of(dtype, proto.floatData, dims).bytes();
    case 'float64':
      return Tensor.of(dtype, proto.doubleData, dims).bytes();
    case 'int64':
      return Tensor.of(dtype, proto.int64Data.map(integer), dims).bytes();
    case 'uint32':
    case 'uint64': {
      const values = BigUint64Array.from(proto.uint64Data.map((value) => BigInt(value.toString())));
      if (dtype === 'uint64') return new Uint8Array(values.buffer);
      return new Uint8Array(Uint32Array.from(values, Number).buffer);
    }
    case 'float16':
    case 'bfloat16':
      // int32_data holds the 16-bit patterns.
      return new Uint8Array(Uint16Array.from(proto.int32Data).buffer);
    case 'uint4':
    case 'int4':
      return Uint8Array.from(proto.int32Data);
    default:
      return Tensor.of(dtype, proto.int32Data, dims).bytes();
  }
}

function typeOf(type: unknown): { dtype: DType | null; shape: readonly Dim[] | null } {
  const tensor = (type as InstanceType<Proto['TypeProto']> | null | undefined)?.tensorType;
  if (!tensor?.elemType) return { dtype: null, shape: null };
  const dims = tensor.shape?.dim?.map((dim): Dim => {
    if (dim.dimParam) return dim.dimParam;
    return dim.dimValue === null || dim.dimValue === undefined || !Object.hasOwn(dim, 'dimValue')
      ? null
      : integer(dim.dimValue);
  });
  return { dtype: dtypeOf(tensor.elemType) ?? null, shape: dims ?? null };
}
