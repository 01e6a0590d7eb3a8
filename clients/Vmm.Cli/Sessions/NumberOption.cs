using System.CommandLine;
using System.CommandLine.Parsing;
using System.Globalization;
using System.Numerics;

namespace Vmm.Cli.Sessions;

/// <summary>Options whose values are numbers: what is none is refused in the words of the other options, before anything looks at it.</summary>
internal static class NumberOption
{
    /// <summary>Has an option take decimal numbers from <paramref name="least"/> to <paramref name="most"/>, with a point only where they need not be whole.</summary>
    public static Option<T> Within<T>(this Option<T> option, T least, T most)
        where T : struct, INumber<T>, IMinMaxValue<T>
    {
        option.CustomParser = result => Parse(result, option.Name, least, most);
        return option;
    }

    /// <summary>The same for one that need not be there.</summary>
    public static Option<T?> Within<T>(this Option<T?> option, T least, T most)
        where T : struct, INumber<T>, IMinMaxValue<T>
    {
        option.CustomParser = result => Parse(result, option.Name, least, most);
        return option;
    }

    private static T Parse<T>(ArgumentResult result, string option, T least, T most)
        where T : struct, INumber<T>, IMinMaxValue<T>
    {
        string text = result.Tokens[0].Value;
        bool isWhole = T.IsInteger(T.One / (T.One + T.One));
        if (T.TryParse(text, isWhole ? NumberStyles.None : NumberStyles.AllowDecimalPoint, CultureInfo.InvariantCulture, out T number) && number >= least && number <= most)
            return number;
        string range = most != T.MaxValue ? $"from {Text(least)} to {Text(most)}" : least == T.One ? "above 0" : $"of {Text(least)} or more";
        result.AddError($"{option}: '{text}' is not a {(isWhole ? "whole " : "")}number {range}.");
        return least;
    }

    private static string Text<T>(T number)
        where T : INumber<T> => number.ToString(null, CultureInfo.InvariantCulture);
}
