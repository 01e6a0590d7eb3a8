namespace Vmm.Processor.Translation.Native;

/// <summary>
/// The native form of <see cref="LazyFlags.Settle"/>, for the operations that matter: called with everything that it reads at home, it
/// leaves all registers but RAX, RCX and RDX as they are. Operands are shifted to the top of 64 bits, so that one code does for all sizes.
/// </summary>
internal static class SettleStub
{
    private const int Operation = HostRegister.Rsi, Result = HostRegister.Rdi, A = HostRegister.Rax, B = HostRegister.Rdx, Shift = HostRegister.Rcx;

    /// <summary>Emits it.</summary>
    /// <param name="a">Where to.</param>
    /// <param name="suspend">What has managed code settle the rest: <see cref="NativeCodeSpace.SuspendSaving"/>.</param>
    public static void Emit(X64Assembler a, nint suspend)
    {
        a.Push(Operation);
        a.Push(Result);
        // The kind is the operation above the logarithm of the size.
        a.Load(Operation, NativeLayout.FlagKind, 8);
        a.Move(Shift, Operation, false);
        a.ArithmeticImmediate(HostArithmetic.And, Shift, 3, false);
        a.MoveImmediate(A, 8);
        a.Shift(HostShift.Left, A, false);
        a.MoveImmediate(Shift, 64);
        a.Arithmetic(HostArithmetic.Sub, Shift, A, false);
        a.Shift(HostShift.Right, Operation, 2, false);
        a.Load(A, NativeLayout.FlagA, 8);
        a.Shift(HostShift.Left, A, true);
        a.Load(B, NativeLayout.FlagB, 8);
        a.Shift(HostShift.Left, B, true);
        int logic = JumpIf(a, FlagOperation.Logic), sub = JumpIf(a, FlagOperation.Sub), add = JumpIf(a, FlagOperation.Add);
        int increment = JumpIf(a, FlagOperation.Inc), decrement = JumpIf(a, FlagOperation.Dec);
        a.Pop(Result);
        a.Pop(Operation);
        a.Pop(HostRegister.Rcx);
        a.MoveImmediate(HostRegister.Rax, (int)NativeExit.Settle);
        a.Jump(suspend);

        a.Patch(decrement);
        a.MoveImmediate(B, 1);
        a.Shift(HostShift.Left, B, true);
        a.Patch(sub);
        // Borrows: (~a & b) | ((~a | b) & result).
        a.Move(Result, A, true);
        a.Arithmetic(HostArithmetic.Sub, Result, B, true);
        a.Not(A, true);
        EmitCarries(a, () => a.Arithmetic(HostArithmetic.And, B, Result, true));
        int subtracted = a.Jump();

        a.Patch(increment);
        a.MoveImmediate(B, 1);
        a.Shift(HostShift.Left, B, true);
        a.Patch(add);
        // Carries: (a & b) | ((a | b) & ~result).
        a.Move(Result, A, true);
        a.Arithmetic(HostArithmetic.Add, Result, B, true);
        EmitCarries(a, () =>
        {
            a.Not(Result, true);
            a.Arithmetic(HostArithmetic.And, B, Result, true);
            a.Not(Result, true);
        });

        a.Patch(subtracted);
        // Of the carries the top two bits count, and bit 3 of the operand.
        a.Move(B, A, true);
        a.Shift(HostShift.Right, B, true);
        a.ArithmeticImmediate(HostArithmetic.And, B, 8, false);
        a.Shift(HostShift.Right, A, 62, true);
        a.Shift(HostShift.Left, A, 62, true);
        a.Arithmetic(HostArithmetic.Or, A, B, true);
        a.ArithmeticImmediate(HostArithmetic.Compare, Operation, (int)FlagOperation.Inc, false);
        int changesCarry = a.JumpIf(HostCondition.Below);
        // CF stays as it was, and OF, the difference of the top two bits, as it is.
        a.Load(B, NativeLayout.FlagC, 8);
        a.Shift(HostShift.Left, B, 63, true);
        a.Arithmetic(HostArithmetic.Xor, B, A, true);
        a.Shift(HostShift.Right, B, 63, true);
        a.Shift(HostShift.Left, B, 63, true);
        a.Arithmetic(HostArithmetic.Xor, A, B, true);
        a.Shift(HostShift.Right, B, 1, true);
        a.Arithmetic(HostArithmetic.Xor, A, B, true);
        int kept = a.Jump();

        a.Patch(logic);
        a.Move(Result, A, true);
        a.MoveImmediate(A, 0);
        a.Patch(changesCarry);
        a.Patch(kept);
        a.Shift(HostShift.RightSigned, Result, true);
        a.Store(NativeLayout.FlagResult, Result, 8);
        a.Store(NativeLayout.FlagCarries, A, 8);
        a.StoreImmediate(NativeLayout.FlagKind, 0, 8);
        a.Pop(Result);
        a.Pop(Operation);
        a.Return();
    }

    // A = (A & B) | ((A | B) masked by the result); B is lost.
    private static void EmitCarries(X64Assembler a, Action maskByResult)
    {
        a.Push(HostRegister.Rbp);
        a.Move(HostRegister.Rbp, A, true);
        a.Arithmetic(HostArithmetic.And, HostRegister.Rbp, B, true);
        a.Arithmetic(HostArithmetic.Or, B, A, true);
        maskByResult();
        a.Move(A, HostRegister.Rbp, true);
        a.Arithmetic(HostArithmetic.Or, A, B, true);
        a.Pop(HostRegister.Rbp);
    }

    private static int JumpIf(X64Assembler a, FlagOperation operation)
    {
        a.ArithmeticImmediate(HostArithmetic.Compare, Operation, (int)operation, false);
        return a.JumpIf(HostCondition.Equal);
    }
}
