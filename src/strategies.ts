/**
 * The strategies that ship with onnx-alora. The only file of src that imports plug-ins.
 * @module
 */
export { adalora } from '../plugins/adalora/index.ts';
export { alora } from '../plugins/alora/index.ts';
export { lora } from '../plugins/lora/index.ts';
export { sora } from '../plugins/sora/index.ts';
