import * as ort from 'onnxruntime-node';
import { describe, expect, it } from 'vitest';
import { Builder, floatAttribute } from '../../src/onnx/builder.ts';
import { cloneModel } from '../../src/onnx/clone.ts';
import { type AttributeInit, type Dim, Graph, type Value } from '../../src/onnx/graph.ts';
import { Tensor } from '../../src/onnx/tensor.ts';
import { fold } from '../../src/passes/fold.ts';
import { inferTypes } from '../../src/passes/inferTypes.ts';
import { lower, lowerForward, lowerings, separateProjections } from '../../src/passes/lower.ts';
import { evaluate } from '../../src/passes/symbolic.ts';
import { type Feeds, modelOf, run, scaledError } from './models.ts';

const lengths: Record<string, number> = { B: 2, S: 5, T: 7 };

/** A graph around one fused node, and what to feed it. */
class Case {
  readonly graph = new Graph();
  readonly make = new Builder(this.graph, 't');
  readonly feeds: Feeds = {};
  private seed = 1;

  private numbers(count: number): Float32Array {
    const seed = this.seed++;
    // Any numbers of size 1 without pattern do.
    return Float32Array.from({ length: count }, (_, i) => Math.sin((i + 1) * 12.9898 + seed * 78.233) * 1.5);
  }
  /** float32 input with named or fixed lengths. */
  x(...shape: Dim[]): Value {
    const dims = shape.map((dim) => (typeof dim === 'number' ? dim : lengths[dim!]!));
    const value = this.graph.input(`x${this.seed}`, 'float32', shape);
    this.feeds[value.name] = new ort.Tensor('float32', this.numbers(dims.reduce((a, b) => a * b, 1)), dims);
    return value;
  }
  /** float32 constant. */
  w(...dims: number[]): Value {
    const values = this.numbers(dims.reduce((a, b) => a * b, 1)).map((v) => v * 0.4);
    return this.make.constant(`w${this.seed}`, Tensor.float32(values, dims));
  }
  ints(type: 'int64' | 'int32', shape: Dim[], values: number[]): Value {
    const dims = shape.map((dim) => (typeof dim === 'number' ? dim : lengths[dim!]!));
    const value = this.graph.input(`i${this.seed++}`, type, shape);
    const data = type === 'int64' ? BigInt64Array.from(values, BigInt) : Int32Array.from(values);
    this.feeds[value.name] = new ort.Tensor(type, data as Int32Array, dims);
    return value;
  }
  node(
    op: string,
    inputs: (Value | null)[],
    attributes: Record<string, AttributeInit> = {},
    outputs = 1,
  ): void {
    const contrib = !op.startsWith('onnx.');
    const node = this.make.node(op.replace('onnx.', ''), inputs, outputs, {
      name: 'fused',
      domain: contrib ? 'com.microsoft' : '',
      attributes,
    });
    this.graph.outputs = node.outputs.map((value) => value!);
  }
}

interface Row {
  readonly name: string;
  readonly opset?: number;
  readonly build: (c: Case) => void;
  /** Default: 4e-7 of the largest output, a few roundings of float32 (6e-8 each) in another order. */
  readonly tolerance?: number;
  /** Rows of the batch that are compared; default all. Padding is not defined by the kernels. */
  readonly lengths?: readonly number[];
}

/** cos and sin tables [positions, half]. */
const tables = (c: Case, half: number, positions = 16) =>
  [Math.cos, Math.sin].map((f, i) =>
    c.make.constant(
      `table${i}`,
      Tensor.float32(
        Float32Array.from({ length: positions * half }, (_, k) =>
          f(Math.floor(k / half) * 10000 ** (-(k % half) / half)),
        ),
        [positions, half],
      ),
    ),
  ) as [Value, Value];

const float = floatAttribute;
const paddedLengths = [5, 3];

/** GroupQueryAttention on padded rows: H query heads on K key heads of size 16, as its rotation demands. */
const gqa =
  (heads: number, keyHeads: number, attributes: Record<string, AttributeInit> = {}, packed = false) =>
  (c: Case) => {
    const seqlens = c.ints(
      'int32',
      ['B'],
      paddedLengths.map((n) => n - 1),
    );
    const total = c.ints('int32', [], [5]);
    const [cos, sin] = attributes.do_rotary ? tables(c, 8) : [null, null];
    const qkv = packed
      ? [c.x('B', 'S', (heads + 2 * keyHeads) * 16), null, null]
      : [c.x('B', 'S', heads * 16), c.x('B', 'S', keyHeads * 16), c.x('B', 'S', keyHeads * 16)];
    c.node(
      'GroupQueryAttention',
      [...qkv, null, null, seqlens, total, cos, sin],
      {
        num_heads: heads,
        kv_num_heads: keyHeads,
        ...attributes,
      },
      3,
    );
  };

const mha =
  (extra: (c: Case) => (Value | null)[], attributes: Record<string, AttributeInit> = {}) =>
  (c: Case) =>
    c.node('MultiHeadAttention', [c.x('B', 'S', 24), c.x('B', 'T', 24), c.x('B', 'T', 24), ...extra(c)], {
      num_heads: 3,
      ...attributes,
    });

/** Block-wise quantised weights of N rows of K. */
const nBits =
  (K: number, N: number, bits: number, block: number, zeros: 'none' | 'packed' | 'float') => (c: Case) => {
    const blocks = Math.ceil(K / block);
    const bytes = (count: number) =>
      Uint8Array.from({ length: count }, (_, i) => Math.floor(Math.abs(Math.sin(i * 3.7 + 1)) * 255.99));
    const size = (block * bits) / 8;
    const b = c.make.constant('B', new Tensor('uint8', [N, blocks, size], bytes(N * blocks * size)));
    const scales = c.w(N, blocks);
    const zeroRow = Math.ceil((blocks * bits) / 8);
    const zp =
      zeros === 'none'
        ? null
        : zeros === 'packed'
          ? c.make.constant('zp', new Tensor('uint8', [N, zeroRow], bytes(N * zeroRow)))
          : c.make.constant(
              'zp',
              Tensor.float32(
                Float32Array.from({ length: N * blocks }, (_, i) => 7 + (i % 5) / 4),
                [N, blocks],
              ),
            );
    c.node('MatMulNBits', [c.x('B', 'S', K), b, scales, zp, null, c.w(N)], { K, N, bits, block_size: block });
  };

const bytesConstant = (c: Case, type: 'int8' | 'uint8', dims: number[]) =>
  c.make.constant(
    `q${type}`,
    new Tensor(
      type,
      dims,
      Uint8Array.from({ length: dims.reduce((a, b) => a * b, 1) }, (_, i) => (i * 97 + 13) % 256),
    ),
  );

const rows: Row[] = [
  { name: 'Gelu', build: (c) => c.node('Gelu', [c.x('B', 'S', 8)]) },
  { name: 'Gelu, opset 20', opset: 20, build: (c) => c.node('Gelu', [c.x('B', 'S', 8)]) },
  { name: 'BiasGelu', build: (c) => c.node('BiasGelu', [c.x('B', 'S', 8), c.w(8)]) },
  { name: 'FastGelu', build: (c) => c.node('FastGelu', [c.x('B', 'S', 8)]) },
  { name: 'FastGelu with a bias', build: (c) => c.node('FastGelu', [c.x('B', 'S', 8), c.w(8)]) },
  { name: 'QuickGelu', build: (c) => c.node('QuickGelu', [c.x('B', 'S', 8)]) },
  { name: 'QuickGelu, alpha 1', build: (c) => c.node('QuickGelu', [c.x('B', 'S', 8)], { alpha: float(1) }) },
  {
    name: 'FusedMatMul',
    build: (c) =>
      c.node('FusedMatMul', [c.x('B', 3, 'S', 8), c.x('B', 3, 'T', 8)], { transB: 1, alpha: float(0.35) }),
  },
  {
    name: 'FusedMatMul, A transposed',
    build: (c) => c.node('FusedMatMul', [c.x('B', 8, 'S'), c.w(8, 6)], { transA: 1, alpha: float(1) }),
  },
  {
    name: 'SkipLayerNormalization',
    build: (c) =>
      c.node('SkipLayerNormalization', [c.x('B', 'S', 8), c.x('B', 'S', 8), c.w(8), c.w(8), c.w(8)], {
        epsilon: float(1e-5),
      }),
  },
  {
    name: 'SkipSimplifiedLayerNormalization',
    build: (c) =>
      c.node('SkipSimplifiedLayerNormalization', [c.x('B', 'S', 8), c.x('B', 'S', 8), c.w(8)], {
        epsilon: float(1e-6),
      }),
  },
  {
    name: 'SimplifiedLayerNormalization',
    build: (c) =>
      c.node('onnx.SimplifiedLayerNormalization', [c.x('B', 'S', 8), c.w(8)], {
        axis: -1,
        epsilon: float(1e-6),
      }),
  },
  {
    name: 'SimplifiedLayerNormalization, opset 18',
    opset: 18,
    build: (c) =>
      c.node('onnx.SimplifiedLayerNormalization', [c.x('B', 'S', 8), c.w(8)], {
        axis: -1,
        epsilon: float(1e-6),
      }),
  },
  ...[0, 1].flatMap((interleaved): Row[] => [
    {
      name: `RotaryEmbedding, heads in one axis, interleaved ${interleaved}`,
      build: (c) => {
        const ids = c.ints('int64', ['B', 'S'], [0, 1, 2, 3, 4, 3, 4, 5, 6, 7]);
        c.node('RotaryEmbedding', [c.x('B', 'S', 24), ids, ...tables(c, 4)], { interleaved });
      },
    },
    {
      name: `RotaryEmbedding, four axes, interleaved ${interleaved}`,
      build: (c) => {
        const start = c.ints('int64', [1], [2]);
        c.node('RotaryEmbedding', [c.x('B', 3, 'S', 8), start, ...tables(c, 4)], { interleaved });
      },
    },
    {
      name: `RotaryEmbedding of a part of the head, interleaved ${interleaved}`,
      build: (c) => {
        const ids = c.ints('int64', ['B', 'S'], [0, 1, 2, 3, 4, 3, 4, 5, 6, 7]);
        const attributes = { interleaved, num_heads: 3, rotary_embedding_dim: 4 };
        c.node('RotaryEmbedding', [c.x('B', 'S', 24), ids, ...tables(c, 2)], attributes);
      },
    },
    {
      name: `RotaryEmbedding of ai.onnx, interleaved ${interleaved}`,
      opset: 23,
      build: (c) => {
        const ids = c.ints('int64', ['B', 'S'], [0, 1, 2, 3, 4, 3, 4, 5, 6, 7]);
        c.node('onnx.RotaryEmbedding', [c.x('B', 3, 'S', 8), ...tables(c, 4), ids], { interleaved });
      },
    },
  ]),
  {
    name: 'RotaryEmbedding of ai.onnx with angles of its own',
    opset: 23,
    build: (c) =>
      c.node('onnx.RotaryEmbedding', [c.x('B', 'S', 24), c.x('B', 'S', 2), c.x('B', 'S', 2)], {
        num_heads: 3,
        rotary_embedding_dim: 4,
      }),
  },
  ...[true, false].map((full) => ({
    name: full ? 'EmbedLayerNormalization' : 'EmbedLayerNormalization without segments and mask',
    build: (c: Case) => {
      const ids = c.ints('int32', ['B', 'S'], [0, 1, 2, 3, 4, 3, 4, 5, 6, 7]);
      const segments = full ? c.ints('int32', ['B', 'S'], [0, 0, 1, 1, 1, 0, 1, 1, 0, 0]) : null;
      const mask = full ? c.ints('int32', ['B', 'S'], [1, 1, 1, 1, 1, 1, 1, 1, 0, 0]) : null;
      const tables = [c.w(8, 6), c.w(7, 6), full ? c.w(2, 6) : null, c.w(6), c.w(6)];
      c.node('EmbedLayerNormalization', [ids, segments, ...tables, mask], { epsilon: float(1e-5) }, 2);
    },
  })),
  { name: 'GroupQueryAttention', lengths: paddedLengths, build: gqa(4, 2) },
  { name: 'GroupQueryAttention, packed', lengths: paddedLengths, build: gqa(4, 2, {}, true) },
  {
    name: 'GroupQueryAttention with rotary positions',
    lengths: paddedLengths,
    build: gqa(6, 2, { do_rotary: 1, scale: float(0.3) }),
  },
  {
    name: 'GroupQueryAttention with interleaved rotary positions',
    lengths: paddedLengths,
    build: gqa(2, 2, { do_rotary: 1, rotary_interleaved: 1 }, true),
  },
  { name: 'GroupQueryAttention, softcap', lengths: paddedLengths, build: gqa(4, 1, { softcap: float(2) }) },
  { name: 'GroupQueryAttention, window', lengths: paddedLengths, build: gqa(4, 2, { local_window_size: 2 }) },
  {
    name: 'GroupQueryAttention, smooth softmax',
    lengths: paddedLengths,
    build: gqa(4, 2, { smooth_softmax: 1 }),
  },
  { name: 'MultiHeadAttention', build: mha(() => []) },
  { name: 'MultiHeadAttention, scaled', build: mha(() => [], { scale: float(0.2) }) },
  { name: 'MultiHeadAttention with a bias', build: mha((c) => [c.w(72)]) },
  {
    name: 'MultiHeadAttention with a key mask',
    build: mha((c) => [null, c.ints('int32', ['B', 'T'], [1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 0, 0, 0, 0])]),
  },
  { name: 'MultiHeadAttention with key lengths', build: mha((c) => [null, c.ints('int32', ['B'], [7, 4])]) },
  {
    name: 'MultiHeadAttention with an attention bias',
    build: mha((c) => [null, null, c.x('B', 3, 'S', 'T')]),
  },
  {
    name: 'MultiHeadAttention, causal',
    build: (c) =>
      c.node('MultiHeadAttention', [c.x('B', 'S', 24), c.x('B', 'S', 24), c.x('B', 'S', 24)], {
        num_heads: 3,
        unidirectional: 1,
      }),
  },
  {
    name: 'MultiHeadAttention on keys and values as heads',
    build: (c) =>
      c.node('MultiHeadAttention', [c.x('B', 'S', 24), c.x('B', 3, 'T', 8), c.x('B', 3, 'T', 8)], {
        num_heads: 3,
      }),
  },
  {
    name: 'Attention of com.microsoft',
    build: (c) => {
      const mask = c.ints('int32', ['B', 'S'], [1, 1, 1, 1, 1, 1, 1, 1, 0, 0]);
      c.node('Attention', [c.x('B', 'S', 24), c.w(24, 72), c.w(72), mask], { num_heads: 3 });
    },
  },
  {
    name: 'Attention of com.microsoft with lengths',
    build: (c) =>
      c.node('Attention', [c.x('B', 'S', 24), c.w(24, 72), c.w(72), c.ints('int32', ['B'], [5, 3])], {
        num_heads: 3,
      }),
  },
  {
    name: 'Attention of com.microsoft, causal',
    build: (c) =>
      c.node('Attention', [c.x('B', 'S', 24), c.w(24, 72), c.w(72)], { num_heads: 3, unidirectional: 1 }),
  },
  {
    name: 'Attention of ai.onnx',
    opset: 23,
    build: (c) => c.node('onnx.Attention', [c.x('B', 4, 'S', 8), c.x('B', 2, 'T', 8), c.x('B', 2, 'T', 8)]),
  },
  {
    name: 'Attention of ai.onnx, causal, softcap',
    opset: 23,
    build: (c) =>
      c.node('onnx.Attention', [c.x('B', 'S', 32), c.x('B', 'S', 16), c.x('B', 'S', 16)], {
        q_num_heads: 4,
        kv_num_heads: 2,
        is_causal: 1,
        softcap: float(3),
        scale: float(0.5),
      }),
  },
  {
    name: 'Attention of ai.onnx with an added mask',
    opset: 23,
    build: (c) =>
      c.node('onnx.Attention', [
        c.x('B', 3, 'S', 8),
        c.x('B', 3, 'T', 8),
        c.x('B', 3, 'T', 8),
        c.x('B', 1, 'S', 'T'),
      ]),
  },
  {
    name: 'Attention of ai.onnx with a boolean mask',
    opset: 23,
    build: (c) => {
      const mask = c.make.op('Greater', [c.x('S', 'T'), c.make.scalar(-1)]);
      c.node('onnx.Attention', [c.x('B', 3, 'S', 8), c.x('B', 3, 'T', 8), c.x('B', 3, 'T', 8), mask]);
    },
  },
  { name: 'MatMulNBits, 4 bits', build: nBits(64, 6, 4, 32, 'none') },
  { name: 'MatMulNBits, 4 bits, zero points', build: nBits(96, 6, 4, 32, 'packed') },
  { name: 'MatMulNBits, 4 bits, zero points between integers', build: nBits(64, 6, 4, 32, 'float') },
  { name: 'MatMulNBits, 4 bits, last block not full', build: nBits(50, 6, 4, 32, 'packed') },
  { name: 'MatMulNBits, 8 bits', build: nBits(64, 6, 8, 32, 'packed') },
  ...['none', 'packed'].map(
    (zeros): Row => ({
      name: `GatherBlockQuantized, zero points ${zeros}`,
      build: (c) => {
        const data = bytesConstant(c, 'uint8', [9, 32]);
        const points = c.make.constant(
          'points',
          new Tensor(
            'uint8',
            [9, 1],
            Uint8Array.from({ length: 9 }, (_, i) => i * 23),
          ),
        );
        const ids = c.ints('int64', ['B', 'S'], [0, 1, 2, 3, 4, 5, 6, 7, 8, 0]);
        c.node('GatherBlockQuantized', [data, ids, c.w(9, 2), ...(zeros === 'none' ? [] : [points])], {
          bits: 4,
          block_size: 32,
          gather_axis: 0,
          quantize_axis: 1,
        });
      },
    }),
  ),
  {
    name: 'DynamicQuantizeMatMul',
    build: (c) => {
      const scale = c.make.constant('scale', Tensor.float32([0.01, 0.02, 0.03, 0.04]));
      const zero = c.make.constant('zero', Tensor.of('int8', [0, 3, -2, 0], [4]));
      const weight = bytesConstant(c, 'int8', [16, 4]);
      c.node('DynamicQuantizeMatMul', [c.x('B', 'S', 16), weight, scale, zero, c.w(4)]);
    },
  },
  {
    name: 'DynamicQuantizeLinear, MatMulInteger, Cast and Mul',
    build: (c) => {
      const quantised = c.make.node('DynamicQuantizeLinear', [c.x('B', 'S', 16)], 3);
      const [x, scale, zero] = quantised.outputs as [Value, Value, Value];
      const weight = bytesConstant(c, 'uint8', [16, 4]);
      const weightScale = c.make.constant('scale', Tensor.float32([0.02]));
      const product = c.make.op('MatMulInteger', [
        x,
        weight,
        zero,
        c.make.constant('zero', Tensor.of('uint8', [128], [1])),
      ]);
      const cast = c.make.op('Cast', [product], { attributes: { to: 1 } });
      c.graph.outputs = [c.make.op('Mul', [cast, c.make.op('Mul', [scale, weightScale])])];
    },
  },
];

describe('lower', () => {
  it.each(rows)('$name', async ({ build, opset = 17, tolerance = 4e-7, lengths: kept }) => {
    const c = new Case();
    build(c);
    const fused = modelOf(c.graph, opset);
    const expected = await run(fused, c.feeds);
    inferTypes(fused);
    for (const output of c.graph.outputs)
      expect(output.shape?.map((dim) => evaluate(dim, lengths))).toEqual(expected[output.name]!.dims);
    const model = cloneModel(fused);
    expect(lower(model)).toBe(1);
    fold(model);
    expect(model.graph.nodes.filter((node) => node.domain !== '' || lowerings[node.op])).toEqual([]);
    const actual = await run(model, c.feeds, 'disabled');
    expect(Object.keys(actual)).toEqual(Object.keys(expected));
    for (const [name, tensor] of Object.entries(expected)) {
      expect(actual[name]!.dims).toEqual(tensor.dims);
      const rowsOf = (t: ort.Tensor) => (kept ? unpadded(t, kept) : t);
      expect(scaledError(rowsOf(actual[name]!), rowsOf(tensor))).toBeLessThan(tolerance);
    }
  });

  it.each(rows)('$name: kept where no gradient is needed', async (row) => {
    const c = new Case();
    row.build(c);
    const model = modelOf(c.graph, row.opset ?? 17);
    const expected = await run(model, c.feeds);
    lowerForward(model, () => true);
    // Sums, projections and quantisers come apart; the heavy part is still one operator of ONNX Runtime's.
    const apart = /^Skip/.test(row.name);
    const { nodes } = model.graph;
    expect(nodes.some(({ op, domain }) => domain !== '' || lowerings[op])).toBe(
      !apart || nodes.some(({ op }) => op === 'SimplifiedLayerNormalization'),
    );
    const actual = await run(model, c.feeds);
    for (const [name, tensor] of Object.entries(expected)) {
      const rowsOf = (t: ort.Tensor) => (row.lengths ? unpadded(t, row.lengths) : t);
      expect(scaledError(rowsOf(actual[name]!), rowsOf(tensor))).toBeLessThan(row.tolerance ?? 4e-7);
    }
  });

  it('takes everything apart for a device that has no fused kernels', () => {
    const c = new Case();
    gqa(4, 2)(c);
    const model = modelOf(c.graph);
    lowerForward(model, () => false);
    expect(model.graph.nodes.filter(({ domain }) => domain !== '')).toEqual([]);
  });

  it('says which node stands in the way, and why', () => {
    const c = new Case();
    const past = c.x('B', 3, 'T', 8);
    c.node(
      'MultiHeadAttention',
      [c.x('B', 'S', 24), c.x('B', 'S', 24), c.x('B', 'S', 24), null, null, null, past, past],
      {
        num_heads: 3,
      },
    );
    expect(() => lower(modelOf(c.graph))).toThrowError(
      expect.objectContaining({
        kind: 'model',
        code: 'MODEL_LOWERING',
        message: expect.stringMatching(/MultiHeadAttention 't\/fused' .*cache that is not empty/),
      }),
    );
  });

  it('gives the product that replaces a node its name and metadata', () => {
    const c = new Case();
    nBits(64, 6, 4, 32, 'none')(c);
    c.graph.nodes[0]!.name = '/model/layers.0/attn/q_proj/MatMul_Q4';
    c.graph.nodes[0]!.metadata = new Map([['pkg.torch.onnx.name_scopes', 'q_proj']]);
    const model = modelOf(c.graph);
    lower(model);
    const product = model.graph.nodes.find((node) => node.op === 'MatMul')!;
    expect(product.name).toBe('/model/layers.0/attn/q_proj/MatMul_Q4');
    expect(product.metadata.get('pkg.torch.onnx.name_scopes')).toBe('q_proj');
    expect(product.inputs[1]!.producer!.op).toBe('DequantizeLinear');
    expect(product.inputs[1]!.producer!.inputs[0]!.initializer!.dtype).toBe('uint4');
  });
});

/** The positions before each row's length, of [B, S, ...] or [B, heads, S, D]. */
function unpadded(tensor: ort.Tensor, kept: readonly number[]): ort.Tensor {
  const { dims } = tensor;
  const axis = dims.length === 4 ? 2 : 1;
  const inner = dims.slice(axis + 1).reduce((a, b) => a * b, 1);
  const outer = dims.slice(1, axis).reduce((a, b) => a * b, 1);
  const data = (tensor.data as Float32Array).filter((_, i) => {
    const position = Math.floor(i / inner) % dims[axis]!;
    return position < kept[Math.floor(i / (inner * dims[axis]! * outer))]!;
  });
  return new ort.Tensor('float32', data, [data.length]);
}

describe('separateProjections', () => {
  const attentionOf = (mask: 'none' | 'lengths' | 'ends and starts' | 'keys', rotary = 0) => {
    const row = new Case();
    const masks = {
      none: () => null,
      lengths: () => row.ints('int32', ['B'], [5, 3]),
      'ends and starts': () => row.ints('int32', [4], [5, 3, 0, 1]),
      keys: () => row.ints('int32', ['B', 'S'], [1, 1, 1, 1, 1, 1, 1, 1, 0, 0]),
    };
    const inputs = [row.x('B', 'S', 8), row.w(8, 24), row.w(24), masks[mask]()];
    row.node('Attention', inputs, { num_heads: 2, do_rotary: rotary });
    return row;
  };

  it.each([
    ['none', 'MultiHeadAttention'],
    ['lengths', 'MultiHeadAttention'],
    ['keys', 'MultiHeadAttention'],
    // Which MultiHeadAttention has no form for.
    ['ends and starts', 'Attention'],
  ] as const)('computes what the whole operator does, mask: %s', async (mask, operator) => {
    const { graph, feeds } = attentionOf(mask);
    const model = modelOf(graph);
    const before = Object.values(await run(cloneModel(model), feeds))[0]!;
    separateProjections(model);
    expect(graph.nodes.filter(({ domain }) => domain !== '').map(({ op }) => op)).toEqual([operator]);
    const after = Object.values(await run(model, feeds))[0]!;
    expect(scaledError(after, before)).toBeLessThan(4e-7);
  });

  it('leaves an operator that rotates positions', () => {
    const { graph } = attentionOf('none', 1);
    separateProjections(modelOf(graph));
    expect(graph.nodes.map(({ op }) => op)).toEqual(['Attention']);
  });
});
