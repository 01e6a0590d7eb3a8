using System.Text.RegularExpressions;
using Vmm.Testing;
using Xunit;

namespace Vmm.Architecture.Tests;

/// <summary>The rules for files and names.</summary>
public sealed partial class RepositoryTests
{
    private const int MostLines = 600;

    /// <summary>Names that say nothing.</summary>
    private static readonly string[] EmptyNames = ["Util", "Utils", "Utilities", "Helper", "Helpers", "Manager", "Common"];

    /// <summary>Files that may be longer, with the reason.</summary>
    private static readonly Dictionary<string, string> LongFiles = new(StringComparer.Ordinal);

    [Fact]
    public void No_file_is_too_long_to_read()
    {
        foreach (var path in Repository.Files("*.cs").Concat(Repository.Files("*.proto")))
        {
            var lines = File.ReadLines(Path.Combine(Repository.Root, path)).Count();
            Assert.True(
                lines <= MostLines || LongFiles.ContainsKey(path),
                $"{path} has {lines} lines, more than {MostLines}: split it, or give {nameof(LongFiles)} the reason why it is a table.");
        }
    }

    [Fact]
    public void Files_that_may_be_long_exist() =>
        Assert.All(LongFiles.Keys, path => Assert.True(File.Exists(Path.Combine(Repository.Root, path)), path));

    [Fact]
    public void Every_top_level_folder_has_its_page()
    {
        foreach (var folder in Directory.EnumerateDirectories(Repository.Root))
        {
            var name = Path.GetFileName(folder);
            if (name[0] == '.' || name is "artifacts" or "bin" or "obj" || !Directory.EnumerateFileSystemEntries(folder).Any())
                continue;
            Assert.True(File.Exists(Path.Combine(folder, "README.md")), $"{name}/README.md is missing.");
        }
    }

    [Fact]
    public void Names_of_files_and_types_say_something()
    {
        foreach (var path in Repository.Files("*.cs"))
            Assert.False(SaysNothing(Path.GetFileNameWithoutExtension(path)), path);
        foreach (var assembly in ProductAssembly.All)
            foreach (var type in assembly.Types)
                Assert.False(SaysNothing(type.Split('.')[^1].Split('`')[0]), $"{assembly.Name}: {type}");
    }

    [Fact]
    public void Every_project_is_in_the_solution()
    {
        var solution = File.ReadAllText(Path.Combine(Repository.Root, "Vmm.sln")).Replace('\\', '/');
        foreach (var project in Repository.Files("*.csproj"))
            Assert.Contains($"\"{project}\"", solution, StringComparison.Ordinal);
    }

    [Fact]
    public void Specification_names_tests_that_exist()
    {
        var references = TestReference().Matches(File.ReadAllText(Path.Combine(Repository.Root, "SPECIFICATION.md")));
        Assert.NotEmpty(references);
        foreach (Match reference in references)
        {
            var (project, type, method) = (reference.Groups["project"].Value, reference.Groups["type"].Value, reference.Groups["method"].Value);
            var folder = Path.Combine("tests", project);
            Assert.True(Directory.Exists(Path.Combine(Repository.Root, folder)), $"{reference.Value}: there is no {folder}.");
            Assert.True(
                Repository.Files("*.cs", folder)
                    .Select(path => File.ReadAllText(Path.Combine(Repository.Root, path)))
                    .Any(text => Regex.IsMatch(text, $@"\bclass {type}\b") && Regex.IsMatch(text, $@"\b{method}\(")),
                $"{reference.Value}: there is no such test.");
        }
    }

    [Fact]
    public void Specification_names_scripts_that_exist()
    {
        foreach (Match script in ScriptReference().Matches(File.ReadAllText(Path.Combine(Repository.Root, "SPECIFICATION.md"))))
            Assert.True(File.Exists(Path.Combine(Repository.Root, script.Groups[1].Value)), script.Value);
    }

    private static bool SaysNothing(string name) => Words().Matches(name).Any(word => EmptyNames.Contains(word.Value));

    [GeneratedRegex("`(?<project>Vmm\\.[A-Za-z]+\\.Tests)\\.(\\w+\\.)*(?<type>\\w+)\\.(?<method>\\w+)`")]
    private static partial Regex TestReference();

    [GeneratedRegex("`(tests/[a-z/]+)`")]
    private static partial Regex ScriptReference();

    [GeneratedRegex("[A-Z][a-z0-9]*")]
    private static partial Regex Words();
}
