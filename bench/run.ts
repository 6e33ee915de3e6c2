import { dirname } from 'node:path';
import { check, store } from './guard.ts';
import { readOptions } from './options.ts';
import { facts, writeFigures, writeReport } from './report.ts';
import { scalingTable } from './scalingTable.ts';
import { scoringTable } from './scoringTable.ts';
import { startTable } from './startTable.ts';
import { stepTable } from './stepTable.ts';
import type { BenchTable, TableResult } from './table.ts';

const tables: Readonly<Record<string, BenchTable>> = {
  step: stepTable,
  scaling: scalingTable,
  scoring: scoringTable,
  start: startTable,
};

const options = readOptions(tables);
const results = new Map<string, TableResult>();
for (const name of options.tables)
  results.set(name, await tables[name]!.measure(options, (text) => options.json || console.log(`${text}\n`)));

const all = [...results.values()];
const ratios = Object.assign({}, ...all.map((result) => result.ratios)) as NonNullable<TableResult['ratios']>;
const about = facts(options.threads, Object.assign({}, ...all.map((result) => result.versions)));
const report = {
  ...about,
  ratios,
  tables: Object.fromEntries([...results].map(([name, { data }]) => [name, data])),
};
if (options.json) console.log(JSON.stringify(report, null, 2));
if (options.out) {
  writeReport(options.out, report);
  await writeFigures(
    dirname(options.out),
    all.flatMap((result) => result.figures ?? []),
  );
}
// Before a file is stored, so that it can be checked and replaced in one go.
if (options.check && !check(ratios, about.machine, options.check)) process.exitCode = 1;
if (options.store) store(ratios, about, options.store);
