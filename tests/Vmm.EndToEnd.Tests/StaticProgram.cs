using System.Diagnostics;
using Vmm.Testing;
using Xunit;

namespace Vmm.EndToEnd.Tests;

/// <summary>Programs for guests, in C.</summary>
internal static class StaticProgram
{
    /// <summary>A static program from its source beside the tests.</summary>
    public static async Task<byte[]> CompileAsync(string source)
    {
        var folder = Directory.CreateTempSubdirectory("vmm-guest-");
        try
        {
            var program = Path.Combine(folder.FullName, "program");
            string[] arguments = ["-O2", "-Wall", "-Wextra", "-Werror", "-static", "-o", program, Path.Combine(AppContext.BaseDirectory, "Guests", source)];
            using var gcc = Process.Start(new ProcessStartInfo(DebianTool.Find("gcc")!, arguments) { RedirectStandardError = true })!;
            var errors = await gcc.StandardError.ReadToEndAsync();
            await gcc.WaitForExitAsync();
            Assert.True(gcc.ExitCode == 0, errors);
            return await File.ReadAllBytesAsync(program);
        }
        finally
        {
            folder.Delete(recursive: true);
        }
    }
}
