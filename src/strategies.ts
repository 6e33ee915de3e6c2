/**
 * The strategies that ship with onnx-alora. The only file of src that imports plug-ins.
 * @module
 */
export { lora } from '../plugins/lora/index.ts';
