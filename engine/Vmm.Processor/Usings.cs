global using System.Runtime.Intrinsics;
global using Vmm.Processor.Decoding;
global using Vmm.Processor.State;
global using unsafe Handler = delegate*<Vmm.Processor.State.CpuState*, Vmm.Processor.Decoding.Insn*, Vmm.Processor.Decoding.Insn*>;
