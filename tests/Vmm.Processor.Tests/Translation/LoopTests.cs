using System.Globalization;
using Iced.Intel;
using Vmm.Processor.State;
using Vmm.Processor.Vmx;
using Vmm.Testing;
using Xunit;
using Xunit.Abstractions;
using static Iced.Intel.AssemblerRegisters;

namespace Vmm.Processor.Tests.Translation;

/// <summary>
/// Random loops over registers, in which compiled code keeps them and the flags' operands where it likes, against the interpreter: registers
/// and flags after each part of the run. <c>VMM_SEED</c> replays one.
/// </summary>
public sealed unsafe class LoopTests(ITestOutputHelper output)
{
    private const int Programs = 150, Rounds = 12;

    private static readonly Register[][] Registers =
    [
        [Register.AL, Register.BL, Register.DL, Register.DH, Register.AH, Register.BH],
        [Register.AX, Register.BX, Register.DX, Register.DX, Register.SI, Register.R8W],
        [Register.EAX, Register.EBX, Register.EDX, Register.EDX, Register.ESI, Register.R8D],
        [Register.RAX, Register.RBX, Register.RDX, Register.RDX, Register.RSI, Register.R8],
    ];

    // The forms of 8 bits, which those of 16, 32 and 64 follow.
    private static readonly Code[] Binary =
        [Code.Add_rm8_r8, Code.Sub_rm8_r8, Code.And_rm8_r8, Code.Or_rm8_r8, Code.Xor_rm8_r8, Code.Adc_rm8_r8, Code.Sbb_rm8_r8, Code.Cmp_rm8_r8, Code.Test_rm8_r8, Code.Mov_rm8_r8];

    // The forms of 8 and of 16 bits, which those of 32 and 64 follow.
    private static readonly (Code Byte, Code Word)[] Unary =
        [(Code.Inc_rm8, Code.Inc_rm16), (Code.Dec_rm8, Code.Dec_rm16), (Code.Neg_rm8, Code.Neg_rm16), (Code.Not_rm8, Code.Not_rm16)];

    private static readonly (Code Byte, Code Word)[] Shifts =
        [(Code.Shl_rm8_imm8, Code.Shl_rm16_imm8), (Code.Shr_rm8_imm8, Code.Shr_rm16_imm8), (Code.Sar_rm8_imm8, Code.Sar_rm16_imm8)];

    private static readonly (Code Byte, Code Word)[] ShiftsByCl =
        [(Code.Shl_rm8_CL, Code.Shl_rm16_CL), (Code.Shr_rm8_CL, Code.Shr_rm16_CL), (Code.Sar_rm8_CL, Code.Sar_rm16_CL)];

    private static readonly Code[] Rotates = [Code.Rol_rm64_imm8, Code.Ror_rm64_imm8];

    [Theory]
    [InlineData(Tier.Regions, 1)]
    [InlineData(Tier.NativeCode, 2)]
    [InlineData(Tier.NativeCode, 3)]
    [InlineData(Tier.NativeRegions, 4)]
    public void A_loop_ends_as_when_it_is_interpreted(Tier tier, int seed)
    {
        seed = int.Parse(Environment.GetEnvironmentVariable("VMM_SEED") ?? $"{seed}", CultureInfo.InvariantCulture);
        output.WriteLine($"VMM_SEED={seed}");
        var random = new Random(seed);
        for (int k = 0; k < Programs; k++)
            Compare(tier, random.Next());
    }

    private static void Compare(Tier tier, int program)
    {
        using TestGuest interpreted = Create(Tier.Interpreter, program), compiled = Create(tier, program);
        var random = new Random(program);
        ExitReason reason;
        do
        {
            int budget = random.Next(1, 60);
            reason = interpreted.Run(budget);
            Assert.Equal(reason, compiled.Run(budget));
            for (int register = 0; register < 16; register++)
                Assert.True(interpreted.State->Gpr[register] == compiled.State->Gpr[register], $"Program {program}, {Register.RAX + register}.");
            Assert.True(interpreted.Vmcs[VmcsField.GuestRip] == compiled.Vmcs[VmcsField.GuestRip], $"Program {program}, RIP.");
            Assert.True(interpreted.Vmcs[VmcsField.GuestRflags] == compiled.Vmcs[VmcsField.GuestRflags], $"Program {program}, RFLAGS.");
        }
        while (reason != ExitReason.Vmcall);
        Assert.NotEqual(0, (int)compiled.Translated!.Value.Installed);
    }

    private static TestGuest Create(Tier tier, int program)
    {
        var guest = new TestGuest(translation: TestTranslation.Of(tier), translate: tier != Tier.Interpreter);
        var random = new Random(program);
        guest.Assemble(64, a =>
        {
            foreach (Register register in Registers[3])
                a.mov(new AssemblerRegister64(register), random.NextInt64());
            a.mov(ecx, Rounds);
            Label loop = a.CreateLabel();
            a.Label(ref loop);
            for (int k = random.Next(1, 12); k > 0; k--)
            {
                if (random.Next(8) == 0)
                    AddKeptCarry(a, random);
                else
                    a.AddInstruction(Any(random));
            }
            a.dec(ecx);
            a.jne(loop);
            a.vmcall();
        });
        guest.EnterLongMode();
        return guest;
    }

    private static Instruction Any(Random random)
    {
        int size = random.Next(1, 8) switch { 1 => 0, 2 => 1, 3 => 2, _ => 3 };
        Register to = One(random, size), from = One(random, size);
        return random.Next(12) switch
        {
            < 4 => Instruction.Create(Binary[random.Next(Binary.Length)] + size, to, from),
            4 or 5 => Instruction.Create(OneOf(Unary, random, size), to),
            6 or 7 => Instruction.Create(OneOf(Shifts, random, size), to, random.Next(40)),
            8 => Instruction.Create(OneOf(ShiftsByCl, random, size), to, Register.CL),
            9 => Instruction.Create(Rotates[random.Next(Rotates.Length)], One(random, 3), random.Next(1, 64)),
            10 => Instruction.Create(Code.Lea_r64_m, One(random, 3), new MemoryOperand(One(random, 3), One(random, 3), 1 << random.Next(4), random.Next(-200, 200), 8)),
            _ => Instruction.Create(Code.Imul_r64_rm64, One(random, 3), One(random, 3)),
        };
    }

    // A carry that INC or DEC keeps, of which another flag is looked at, for what adds it.
    private static void AddKeptCarry(Assembler a, Random random)
    {
        a.AddInstruction(Instruction.Create(Code.Shr_rm64_imm8, One(random, 3), random.Next(1, 40)));
        a.AddInstruction(Instruction.Create(random.Next(2) == 0 ? Code.Inc_rm64 : Code.Dec_rm64, One(random, 3)));
        a.AddInstruction(Instruction.Create(Code.Cmove_r64_rm64, One(random, 3), One(random, 3)));
        a.AddInstruction(Instruction.Create(random.Next(2) == 0 ? Code.Adc_rm64_r64 : Code.Sbb_rm64_r64, One(random, 3), One(random, 3)));
    }

    private static Code OneOf((Code Byte, Code Word)[] forms, Random random, int size)
    {
        (Code eight, Code sixteen) = forms[random.Next(forms.Length)];
        return size == 0 ? eight : sixteen + (size - 1);
    }

    private static Register One(Random random, int size) => Registers[size][random.Next(Registers[size].Length)];
}
