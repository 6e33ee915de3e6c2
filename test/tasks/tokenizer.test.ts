import { cpSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { afterAll, describe, expect, it } from 'vitest';
import { loadTokenizer } from '../../src/tasks/tokenizer.ts';

const fixtures = fileURLToPath(new URL('../../fixtures/tokenizers/', import.meta.url));

interface Case {
  text: string;
  pair: string | null;
  ids: number[];
  typeIds: number[];
  plain: number[];
  decoded: string;
  decodedWithSpecial: string;
}
const cases = JSON.parse(readFileSync(join(fixtures, 'cases.json'), 'utf8')) as Record<string, Case[]>;

for (const [kind, rows] of Object.entries(cases))
  describe(`the ${kind} tokenizer against the Rust library`, async () => {
    const tokenizer = await loadTokenizer(join(fixtures, kind));
    for (const row of rows)
      it(JSON.stringify([row.text, row.pair ?? undefined]), () => {
        expect(tokenizer.encode(row.text, row.pair ?? undefined)).toEqual({
          ids: row.ids,
          typeIds: row.typeIds,
        });
        expect(tokenizer.encodePlain(row.text)).toEqual(row.plain);
        expect(tokenizer.decode(row.ids, { skipSpecial: true })).toBe(row.decoded);
        expect(tokenizer.decode(row.ids)).toBe(row.decodedWithSpecial);
        expect(tokenizer.pieces(row.ids).join('')).toBe(row.decodedWithSpecial);
        expect(tokenizer.pieces(row.ids).length).toBe(row.ids.length);
      });
  });

describe('special tokens and truncation', () => {
  it('knows what stands around a text, and the pad token', async () => {
    const of = async (kind: string) => {
      const { prefix, suffix, padId, eosId, bosId, unkId, vocabSize, modelMaxLength } = await loadTokenizer(
        join(fixtures, kind),
      );
      return { prefix, suffix, padId, eosId, bosId, unkId, vocabSize, modelMaxLength };
    };
    const end = { prefix: [], suffix: [], padId: 0, eosId: 0, bosId: 0, unkId: 0 };
    expect(await of('gpt2')).toEqual({ ...end, vocabSize: 360, modelMaxLength: 128 });
    expect(await of('llama')).toMatchObject({ prefix: [1], suffix: [], padId: 2, eosId: 2, bosId: 1 });
    expect((await of('llama')).modelMaxLength).toBeUndefined();
    expect(await of('bert')).toMatchObject({ prefix: [2], suffix: [3], padId: 0, bosId: undefined });
    expect(await of('unigram')).toMatchObject({ prefix: [], suffix: [1], padId: 0, eosId: 1, unkId: 2 });
  });

  it('cuts the texts and keeps the special tokens, the longer text first', async () => {
    const tokenizer = await loadTokenizer(join(fixtures, 'bert'));
    const [a, b] = ['the quick brown fox', 'yes'];
    const whole = tokenizer.encode(a, b);
    const first = tokenizer.encodePlain(a);
    const second = tokenizer.encodePlain(b);
    expect(whole.ids).toEqual([2, ...first, 3, ...second, 3]);
    const cut = tokenizer.encode(a, b, 3 + second.length + 2);
    expect(cut.ids).toEqual([2, ...first.slice(0, 2), 3, ...second, 3]);
    expect(tokenizer.encode(a, undefined, 4).ids).toEqual([2, ...first.slice(0, 2), 3]);
    expect(tokenizer.encode(a, b, 64)).toEqual(whole);
  });

  it('shows a character that spans several ids at its last', async () => {
    const tokenizer = await loadTokenizer(join(fixtures, 'gpt2'));
    const ids = tokenizer.encodePlain('a 日');
    const pieces = tokenizer.pieces(ids);
    expect(pieces.slice(-3)).toEqual(['', '', '日']);
    expect(tokenizer.pieces(ids.slice(0, -1)).join('')).toBe('a \uFFFD');
  });

  it('leaves out ids beyond the vocabulary', async () => {
    const tokenizer = await loadTokenizer(join(fixtures, 'gpt2'));
    expect(tokenizer.decode([])).toBe('');
    expect(tokenizer.decode([99999, ...tokenizer.encodePlain('yes')])).toBe('yes');
  });
});

describe('chat templates', () => {
  const messages = [
    { role: 'user', content: 'who?' },
    { role: 'assistant', content: 'The fox.' },
  ];
  it('renders with and without a generation prompt', async () => {
    const tokenizer = await loadTokenizer(join(fixtures, 'chatml'));
    expect(tokenizer.applyChatTemplate(messages)).toBe(
      '<|im_start|>user\nwho?<|im_end|>\n<|im_start|>assistant\nThe fox.<|im_end|>\n',
    );
    expect(tokenizer.applyChatTemplate(messages.slice(0, 1), { addGenerationPrompt: true })).toBe(
      '<|im_start|>user\nwho?<|im_end|>\n<|im_start|>assistant\n',
    );
  });
  it('passes on what the template refuses', async () => {
    const tokenizer = await loadTokenizer(join(fixtures, 'llama'));
    expect(tokenizer.applyChatTemplate(messages)).toBe('<s>[INST] who? [/INST] The fox.</s>');
    expect(() => tokenizer.applyChatTemplate([{ role: 'tool', content: '' }])).toThrow(
      /Only user and assistant roles/,
    );
  });
  it('is a configuration error where there is none', async () => {
    const tokenizer = await loadTokenizer(join(fixtures, 'gpt2'));
    expect(tokenizer.hasChatTemplate).toBe(false);
    expect(() => tokenizer.applyChatTemplate(messages)).toThrow(
      expect.objectContaining({ kind: 'config', code: 'CHAT_TEMPLATE_MISSING' }),
    );
  });
});

describe('files of other ages and broken files', () => {
  const folders: string[] = [];
  const copy = (kind: string, change: (json: Record<string, unknown>) => unknown) => {
    const folder = mkdtempSync(join(tmpdir(), 'tokenizer-'));
    folders.push(folder);
    cpSync(join(fixtures, kind), folder, { recursive: true });
    const path = join(folder, 'tokenizer.json');
    const changed = change(JSON.parse(readFileSync(path, 'utf8')) as Record<string, unknown>);
    writeFileSync(path, typeof changed === 'string' ? changed : JSON.stringify(changed));
    return folder;
  };
  afterAll(() => {
    for (const folder of folders) rmSync(folder, { recursive: true });
  });
  const text = "It's the quick brown fox, über alles 😀";

  it('reads merges as pairs and as strings, and a model without a type', async () => {
    const model = (json: Record<string, unknown>) => json.model as { merges: unknown[]; type?: string };
    const asStrings = copy('metaspace', (json) => {
      model(json).merges = model(json).merges.map((m) => (Array.isArray(m) ? m.join(' ') : m));
      delete model(json).type;
      return json;
    });
    const asPairs = copy('metaspace', (json) => {
      model(json).merges = model(json).merges.map((m) => (Array.isArray(m) ? m : String(m).split(' ')));
      return json;
    });
    const expected = (await loadTokenizer(join(fixtures, 'metaspace'))).encode(text);
    expect((await loadTokenizer(asStrings)).encode(text)).toEqual(expected);
    expect((await loadTokenizer(asPairs)).encode(text)).toEqual(expected);
  });

  it('reads Metaspace with add_prefix_space as with prepend_scheme', async () => {
    const old = copy('unigram', (json) => {
      json.pre_tokenizer = { type: 'Metaspace', replacement: '▁', add_prefix_space: true };
      json.decoder = json.pre_tokenizer;
      return json;
    });
    const tokenizer = await loadTokenizer(old);
    const expected = (await loadTokenizer(join(fixtures, 'unigram'))).encode(text);
    expect(tokenizer.encode(text)).toEqual(expected);
    const never = copy('unigram', (json) => {
      json.pre_tokenizer = { type: 'Metaspace', replacement: '▁', add_prefix_space: false };
      return json;
    });
    expect((await loadTokenizer(never)).encode(text)).not.toEqual(expected);
  });

  it('takes special tokens from special_tokens_map.json and the template from chat_template.jinja', async () => {
    const folder = copy('llama', (json) => json);
    writeFileSync(join(folder, 'tokenizer_config.json'), '{}');
    writeFileSync(join(folder, 'special_tokens_map.json'), '{"eos_token": {"content": "</s>"}}');
    writeFileSync(join(folder, 'chat_template.jinja'), '{{ messages[0].content }}!');
    const tokenizer = await loadTokenizer(folder);
    expect(tokenizer.eosId).toBe(2);
    expect(tokenizer.applyChatTemplate([{ role: 'user', content: 'hi' }])).toBe('hi!');
    expect((await loadTokenizer(join(folder, 'onnx'))).eosId).toBe(2);
  });

  it('takes the end token from config.json where no tokenizer file names it', async () => {
    const folder = copy('llama', (json) => json);
    writeFileSync(join(folder, 'tokenizer_config.json'), '{"bos_token": "<s>"}');
    writeFileSync(
      join(folder, 'config.json'),
      '{"eos_token_id": [2, 0], "bos_token_id": 7, "pad_token_id": null}',
    );
    expect(await loadTokenizer(folder)).toMatchObject({ bosId: 1, eosId: 2, padId: 2 });
  });

  it('names the file that is missing, cut short or of an unknown kind', async () => {
    const missing = join(tmpdir(), 'no-such-model');
    await expect(loadTokenizer(missing)).rejects.toMatchObject({
      kind: 'model',
      code: 'TOKENIZER_MISSING',
      details: { where: join(missing, 'tokenizer.json') },
    });
    const short = copy('gpt2', (json) => JSON.stringify(json).slice(0, 500));
    await expect(loadTokenizer(short)).rejects.toMatchObject({
      code: 'TOKENIZER_BROKEN',
      details: { where: join(short, 'tokenizer.json') },
    });
    const empty = copy('gpt2', () => ({}));
    await expect(loadTokenizer(empty)).rejects.toMatchObject({ code: 'TOKENIZER_BROKEN' });
    const strange = copy('gpt2', (json) => ({ ...json, pre_tokenizer: { type: 'Strange' } }));
    await expect(loadTokenizer(strange)).rejects.toMatchObject({
      code: 'TOKENIZER_UNSUPPORTED',
      message: expect.stringContaining('Strange'),
    });
  });
});
