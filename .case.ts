import { stepCase } from './bench/cases.ts';
const [name, labelling, threads, rec] = process.argv.slice(2);
console.log(JSON.stringify({ ...stepCase(name!, labelling as never, { steps: 3, threads: Number(threads) }), recompute: rec === 'rec' }));
