using Vmm.Frontend.Access;
using Vmm.Registry;
using Vmm.V1;
using Vmm.Worker.V1;

namespace Vmm.Server;

/// <summary>The first administrator's token, which the others are made with: its secret is in a file.</summary>
internal static class AdminToken
{
    private const string Id = "admin";
    private const string Name = $"tokens/{Id}";

    /// <summary>Makes the token that is in a file valid, and the file where there is none.</summary>
    /// <exception cref="IOException">The file cannot be read or made.</exception>
    /// <exception cref="ArgumentException">There is something else in it.</exception>
    public static async Task ApplyAsync(string path, IAccessRegistry registry, CancellationToken cancellation)
    {
        if (!File.Exists(path))
            Make(path);
        string secret = (await File.ReadAllTextAsync(path, cancellation)).Trim();
        if (!TokenSecret.TryGetId(secret, out string? id) || id != Id)
            throw new ArgumentException($"{path} has no secret of {Name}: one begins with 'vmm_{Id}_', and is made where the file does not exist.");
        await registry.PutTokenAsync(
            new StoredToken { Token = new Token { Name = Name, DisplayName = "The first administrator", Role = Role.Admin }, SecretSha256 = TokenSecret.Hash(secret) }, cancellation);
    }

    // Two front ends may begin at once with one file: it is there as a whole or not at all, and is one of theirs for both.
    private static void Make(string path)
    {
        string temporary = $"{path}.{Guid.NewGuid():n}";
        var options = new FileStreamOptions { Mode = FileMode.CreateNew, Access = FileAccess.Write };
        if (!OperatingSystem.IsWindows())
            options.UnixCreateMode = UnixFileMode.UserRead | UnixFileMode.UserWrite;
        using (var writer = new StreamWriter(temporary, options))
            writer.WriteLine(TokenSecret.New(Id));
        try
        {
            File.Move(temporary, path, overwrite: false);
        }
        catch (IOException) when (File.Exists(path))
        {
            File.Delete(temporary);
        }
    }
}
