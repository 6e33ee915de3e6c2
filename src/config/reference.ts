import {
  baseJsonSchema,
  describeAllowed,
  type JsonSchema,
  optionsJsonSchema,
  type StrategySchemas,
} from './jsonSchema.ts';

/** Read by a test, so that it stays a file that works. */
const example = `\`\`\`yaml
model: { path: models/my-llama }
data: { task: prompt, train: data/train.jsonl, dev: data/dev.jsonl } # {"prompt": "2 + 2 =", "completion": " 4"}
adapter: { strategy: alora, scorer: screened }
budget: { rank: 8 }
train: { epochs: 3, batchSize: 16, learningRate: 2e-4 }
output: runs/first
\`\`\``;

/** The reference of the run file in Markdown, docs/run-file.md: every key with what it accepts and its default. */
export function runFileReference(strategies: StrategySchemas): string {
  const schema = baseJsonSchema();
  const required = schema.required ?? [];
  const parts = [
    '# The run file',
    'Generated from the schema by `npm run docs:run-file`; `npx onnx-alora schema` prints the same as JSON Schema.',
    'YAML or JSON. An unknown key is an error that names line, column and the nearest known key. A key left empty counts as not given. A relative path is relative to the file; a path given by a flag, `--set` included, is relative to the working directory. `--set a.b=value` overrides any key; `--set a.b=null` unsets it; setting one of two keys that exclude each other displaces the other.',
    example,
    '`npx onnx-alora init` writes one with comments, and rows to train on; `--dry-run` prints a file with all defaults filled in.',
  ];
  for (const [name, section] of Object.entries(schema.properties ?? {})) {
    if (!section.properties) continue;
    parts.push(`## ${name}`, section.description ?? '', table(section, `${name}.`));
    if (name !== 'adapter') continue;
    for (const [strategy, { options }] of Object.entries(strategies)) {
      const own = optionsJsonSchema(options);
      if (!own?.properties || Object.keys(own.properties).length === 0) continue;
      parts.push(`### adapter, with \`strategy: ${strategy}\``, table(own, 'adapter.'));
    }
  }
  const { output } = schema.properties!;
  parts.push('## output', output!.description ?? '');
  parts.push(`Required: ${requiredKeys(schema, required).join(', ')}.`);
  return `${parts.join('\n\n')}\n`;
}

function requiredKeys(schema: JsonSchema, sections: readonly string[]): string[] {
  return sections.flatMap((name) =>
    (schema.properties?.[name]?.required ?? []).map((key) => `\`${name}.${key}\``),
  );
}

function table(section: JsonSchema, prefix: string): string {
  const rows = rowsOf(section, prefix).map((cells) => `| ${cells.join(' | ')} |`);
  return ['| key | accepts | default | meaning |', '|---|---|---|---|', ...rows].join('\n');
}

function rowsOf(section: JsonSchema, prefix: string): string[][] {
  return Object.entries(section.properties ?? {}).flatMap(([key, child]) => {
    if (child.properties) return rowsOf(child, `${prefix}${key}.`);
    const fallback = child.default === undefined ? '' : `\`${JSON.stringify(child.default)}\``;
    return [
      [`\`${prefix}${key}\``, describeAllowed(child), fallback, child.description ?? ''].map(escapePipes),
    ];
  });
}

const escapePipes = (cell: string): string => cell.replaceAll('|', '\\|');
